import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { program } from './fleet';

const programs = process.env['WHIMBREL_KUBERNETES'] ?? '';

/** Why there can be no cluster here; undefined if there can. */
export const whyNoCluster = (): string | undefined =>
  existsSync(join(programs, 'kube-apiserver')) ? undefined : 'no API server of Kubernetes was built (make test-kubernetes)';

/** Known to this process alone. */
const ADMIN = '0123456789abcdef0123456789abcdef';

const freePort = (): Promise<number> =>
  new Promise((done) => {
    const server = createServer();
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => done(typeof address === 'object' && address ? address.port : 0));
    });
  });

/** The API server of Kubernetes with what deploy/ has for people, and the console before it. Nothing else runs: objects are what tests make of them. */
export class Cluster {
  private readonly directory = mkdtempSync('/tmp/wk-');
  private readonly children: ChildProcess[] = [];
  /** Where the console is. */
  origin = '';

  async up(): Promise<void> {
    const [client, peer, port] = [await freePort(), await freePort(), await freePort()];
    const etcd = `http://127.0.0.1:${client}`;
    const other = `http://127.0.0.1:${peer}`;
    this.run(join(programs, 'etcd'), [
      ...['--unsafe-no-fsync', '--log-level', 'warn', '--logger', 'zap', '--name', 'test', '--data-dir', this.file('etcd')],
      ...['--listen-client-urls', etcd, '--advertise-client-urls', etcd, '--listen-peer-urls', other],
      ...['--initial-advertise-peer-urls', other, '--initial-cluster', `test=${other}`],
    ]);
    writeFileSync(this.file('tokens.csv'), `${ADMIN},admin,admin,system:masters\n`);
    execFileSync('openssl', ['genrsa', '-out', this.file('accounts.key'), '2048'], { stdio: 'ignore' });
    this.run(join(programs, 'kube-apiserver'), [
      ...[`--etcd-servers=${etcd}`, '--bind-address=127.0.0.1', '--advertise-address=127.0.0.1', `--secure-port=${port}`],
      ...[`--cert-dir=${this.file('server')}`, `--token-auth-file=${this.file('tokens.csv')}`, '--service-account-issuer=https://kubernetes.default.svc'],
      ...[`--service-account-signing-key-file=${this.file('accounts.key')}`, `--service-account-key-file=${this.file('accounts.key')}`],
      ...['--authorization-mode=RBAC', '--service-cluster-ip-range=10.0.0.0/24', '--disable-admission-plugins=ServiceAccount'],
      ...['--endpoint-reconciler-type=none', '--shutdown-delay-duration=0', '--allow-privileged=true'],
    ]);
    const authority = this.file('server/apiserver.crt');
    await this.until('the API server is up', () => existsSync(authority));
    const server = `https://127.0.0.1:${port}`;
    const config = {
      ...{ apiVersion: 'v1', kind: 'Config', 'current-context': 'test' },
      clusters: [{ name: 'test', cluster: { server, 'certificate-authority': authority } }],
      users: [{ name: 'test', user: { token: ADMIN } }],
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test', namespace: 'default' } }],
    };
    writeFileSync(this.file('kubeconfig'), JSON.stringify(config));
    await this.until('the API server is ready', () => this.tries('get', 'namespace', 'default'));
    this.create(execFileSync(program, ['crds', '--without-rules'], { encoding: 'utf8' }));
    this.kubectl('wait', '--for=condition=Established', 'crd', '--all', '--timeout=60s');
    this.kubectl('create', 'namespace', 'whimbrel');
    this.kubectl('apply', '-f', '../deploy/kubernetes/console/people-rbac.yaml');
    await this.serve(server, authority);
  }

  /** The program that the component of deploy/ runs. */
  private async serve(server: string, authority: string): Promise<void> {
    const ca = ['--ca', this.file('ca')];
    execFileSync(program, ['ca', 'init', ...ca], { stdio: 'ignore' });
    execFileSync(program, ['ca', 'issue', ...ca, '--out', this.directory, 'localhost,127.0.0.1'], { stdio: 'ignore' });
    this.run(program, ['console-server', '--listen', '127.0.0.1:0', '--server', server, '--server-ca', authority, '--tls', this.file('localhost')]);
    const where = /The console is at (https:\S+)\/console\//;
    await this.until('the console is up', () => where.test(this.said()));
    this.origin = where.exec(this.said())?.[1] ?? '';
  }

  private file(name: string): string {
    return join(this.directory, name);
  }

  private said(): string {
    return readFileSync(this.file('log'), 'utf8');
  }

  private run(command: string, args: string[]): void {
    const log = openSync(this.file('log'), 'a');
    this.children.push(spawn(command, args, { stdio: ['ignore', log, log] }));
  }

  kubectl(...args: string[]): string {
    const env = { ...process.env, KUBECONFIG: this.file('kubeconfig') };
    return execFileSync('kubectl', ['--request-timeout=20s', ...args], { env, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  private tries(...args: string[]): boolean {
    try {
      this.kubectl(...args);
      return true;
    } catch {
      return false;
    }
  }

  /** Makes what a manifest has. */
  create(manifest: string): void {
    writeFileSync(this.file('manifest'), manifest);
    this.kubectl('create', '-f', this.file('manifest'));
  }

  /** A token of somebody who has one of the roles for people. */
  personWith(role: 'view' | 'operate' | 'admin'): string {
    this.kubectl('create', 'serviceaccount', role, '--namespace', 'whimbrel');
    this.kubectl('create', 'clusterrolebinding', role, `--clusterrole=whimbrel-console-${role}`, `--serviceaccount=whimbrel:${role}`);
    return this.kubectl('create', 'token', role, '--namespace', 'whimbrel').trim();
  }

  async until(what: string, holds: () => boolean): Promise<void> {
    const deadline = Date.now() + 120_000;
    while (!holds()) {
      if (Date.now() > deadline) throw new Error(`It never came so far that ${what}.\n${this.said()}`);
      await new Promise((done) => setTimeout(done, 100));
    }
  }

  async end(): Promise<void> {
    for (const child of this.children.reverse()) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      const ended = new Promise((done) => child.once('exit', done));
      child.kill('SIGKILL');
      await ended;
    }
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 20 });
  }
}
