import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { accessSync, constants, existsSync, mkdtempSync, readFileSync, readlinkSync, readdirSync, rmSync } from 'node:fs';
import { request } from 'node:https';
import { join, resolve } from 'node:path';
import type { KubeObject, Phase } from '../src/api/objects';

const target = resolve(process.env['CARGO_TARGET_DIR'] ?? '../target');
export const program = join(target, 'debug/whimbrel');

/** Why there can be no fleet here; undefined if there can. */
export const whyNot = (): string | undefined => {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return '/dev/kvm cannot be used';
  }
  if (!existsSync(program)) return `${program} is not built`;
  return existsSync(chromium) ? undefined : `there is no ${chromium}`;
};

export const chromium = process.env['CHROMIUM'] ?? '/usr/bin/chromium';

/** Whether there is a kubectl. */
export const hasKubectl = (): boolean => {
  try {
    execFileSync('kubectl', ['version', '--client'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};

/** A real `whimbrel up` in a directory of its own. */
export class RealFleet {
  /** Short: sockets are below it. */
  readonly directory = mkdtempSync('/tmp/wc-');
  private child: ChildProcess | undefined;
  private said = '';
  private port = 0;

  /** Starts it. Started again it is at the same address. */
  async up(): Promise<void> {
    this.start('up', '--keep');
    await this.until('the fleet is up', () => /https:\S+#login=\S+\n/.test(this.said));
    this.port = Number(new URL(this.login()).port);
  }

  /** Starts a control plane alone, of 10,000 machines that are objects and nothing else. */
  async upWithMany(): Promise<void> {
    execFileSync(program, ['bench', '--fleet', '--leave', this.directory]);
    this.start('controlplane');
    await this.until('the control plane is up', () => /is up at \S+:\d+\./.test(this.said));
    this.port = Number(/is up at \S+:(\d+)\./.exec(this.said)?.[1]);
  }

  private start(command: string, ...more: string[]): void {
    this.said = '';
    const args = [command, ...more, '--dir', this.directory, '--listen', `127.0.0.1:${this.port}`];
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.child = child;
    child.stdout.on('data', (piece: Buffer) => (this.said += piece.toString()));
    child.stderr.on('data', (piece: Buffer) => (this.said += piece.toString()));
  }

  /** The address that it printed, good for one login. */
  login(): string {
    return /https:\S+#login=\S+/.exec(this.said)?.[0] ?? '';
  }

  /** Another such address, for a role. */
  loginAs(role: 'view' | 'operate' | 'admin'): string {
    const env = { ...process.env, KUBECONFIG: join(this.directory, role === 'admin' ? 'kubeconfig' : `kubeconfig.${role}`) };
    return execFileSync(program, ['console'], { env, encoding: 'utf8' }).trim();
  }

  origin(): string {
    return `https://127.0.0.1:${this.port}`;
  }

  /** Ends control plane and agents at once. Machines go on. */
  async kill(): Promise<void> {
    const child = this.child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((done) => child.once('exit', done));
    child.kill('SIGKILL');
    await ended;
  }

  /** Ends everything, machines too. */
  async end(): Promise<void> {
    await this.kill();
    for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        if (readlinkSync(`/proc/${pid}/exe`).endsWith('/whimbrel-vmm') && readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(this.directory)) {
          process.kill(Number(pid), 'SIGKILL');
        }
      } catch {
        // It has ended, or is none of ours.
      }
    }
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 20 });
  }

  /** What it has said. */
  log(): string {
    return this.said;
  }

  /** Another client of the same API: what kubectl would send. */
  api<T = KubeObject>(method: string, path: string, body?: object): Promise<T> {
    const token = readFileSync(join(this.directory, 'tokens/admin'), 'utf8').trim();
    const type = method === 'PATCH' ? 'application/merge-patch+json' : 'application/json';
    const headers = { Authorization: `Bearer ${token}`, Accept: 'application/json', 'Content-Type': type };
    return new Promise((done, failed) => {
      const sent = request(this.origin() + path, { method, headers, rejectUnauthorized: false }, (reply) => {
        let text = '';
        reply.on('data', (piece: Buffer) => (text += piece.toString()));
        reply.on('end', () => {
          if ((reply.statusCode ?? 500) < 400) done(JSON.parse(text) as T);
          else failed(new Error(`${method} ${path}: ${text}`));
        });
      });
      sent.on('error', failed);
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  /** The client that everybody has. */
  kubectl(...args: string[]): string {
    const env = { ...process.env, KUBECONFIG: join(this.directory, 'kubeconfig') };
    return execFileSync('kubectl', args, { env, encoding: 'utf8' });
  }

  async phase(plural: string, name: string): Promise<Phase | undefined> {
    const found = await this.api<{ status?: { phase?: Phase } }>('GET', `${ours}/${plural}/${name}`).catch(() => undefined);
    return found?.status?.phase;
  }

  /** Waits for a condition, at most a minute. */
  async until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
    const deadline = Date.now() + 60_000;
    while (!(await holds())) {
      if (Date.now() > deadline) throw new Error(`It never came so far that ${what}.\n${this.said}`);
      await new Promise((done) => setTimeout(done, 50));
    }
  }
}

/** Where objects of ours are, in the namespace `default`. */
export const ours = '/apis/whimbrel.dev/v1/namespaces/default';

/** A small machine that dirties some bytes each second. */
export const machine = (name: string, rate: string, labels: Record<string, string> = { app: name }): object => ({
  apiVersion: 'whimbrel.dev/v1',
  kind: 'VirtualMachine',
  metadata: { name },
  spec: {
    runStrategy: 'Always',
    template: {
      metadata: { labels },
      spec: {
        domain: {
          memory: { guest: '128Mi' },
          firmware: { kernelBoot: { container: { image: 'whimbrel.dev/workload' }, kernelArgs: `work=8M rate=${rate}` } },
        },
      },
    },
  },
});

/** The same with a disk on which it works. */
export const withDisk = (name: string, path: string): object => {
  const object = machine(name, '1M') as { spec: { template: { spec: { volumes?: object[]; domain: { devices?: object; firmware: { kernelBoot: { kernelArgs: string } } } } } } };
  const { spec } = object.spec.template;
  spec.volumes = [{ name: 'root', hostDisk: { path, shared: true } }];
  spec.domain.devices = { disks: [{ name: 'root', disk: { bus: 'virtio' } }] };
  spec.domain.firmware.kernelBoot.kernelArgs += ' disk=200';
  return object;
};
