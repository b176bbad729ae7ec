import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Drain, Node } from '../src/api/objects';
import type { Usage } from '../src/api/usage';
import { findings, open, overflow, picture } from './browser';
import { hasKubectl, machine, ours, whyNot, withDisk } from './fleet';
import { Visit } from './visit';

const drains = '/apis/whimbrel.dev/v1/nodedrains';

describe.skipIf(whyNot() !== undefined)('what operators do with nodes and machines', () => {
  const visit = new Visit();
  const { fleet, go, seen, instance, latest } = visit;
  let page: Page;
  let here = '';
  let there = '';

  const drainOf = async (): Promise<Drain | undefined> => {
    const { items } = await fleet.api<{ items: Drain[] }>('GET', drains);
    return items.sort((one, other) => Number(other.metadata.resourceVersion) - Number(one.metadata.resourceVersion))[0];
  };
  /** Opens the dialogue for a node, and waits until it is said what would become of it. */
  const openDrain = async (node: string) => {
    await go('/nodes');
    await page.getByRole('button', { name: `Drain ${node}` }).click();
    await page.getByRole('dialog').getByText('Machines there').waitFor();
  };
  const confirmDrain = async () => {
    await page.getByRole('dialog').getByRole('button', { name: 'Drain', exact: true }).click();
    await page.waitForURL(/\/drains\//);
  };
  const look = async () => {
    const { nodeName = '' } = (await instance('busy')).status ?? {};
    here = nodeName;
    there = nodeName === 'node-a' ? 'node-b' : 'node-a';
  };

  beforeAll(async () => {
    await visit.begin();
    ({ page } = visit);
    await fleet.api('POST', `${ours}/virtualmachines`, machine('busy', '1M'));
    await visit.runs('busy');
    await look();
  });

  afterAll(() => visit.end());

  test('a drain says beforehand what moves where and what cannot, and what was typed wrong', async () => {
    const pinned = machine('pinned', '1M') as { spec: { template: { spec: { nodeSelector?: object } } } };
    pinned.spec.template.spec.nodeSelector = { 'kubernetes.io/hostname': here };
    await fleet.api('POST', `${ours}/virtualmachines`, pinned);
    await visit.runs('pinned');
    await openDrain(here);
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('row', { name: new RegExp(`busy.*${here}.*${there}.*128 MiB`) }).waitFor();
    await dialog.getByText('1 machine cannot move as things are').waitFor();
    await dialog.getByRole('row', { name: /pinned.*NoNodeFits/ }).waitFor();
    await picture(page, 'drain-plan');
    expect(await findings(page)).toEqual([]);
    await dialog.getByLabel('Deadline, minutes').fill('1.5');
    await dialog.getByText('A whole number from 1 to 43200').waitFor();
    expect(await dialog.getByRole('button', { name: 'Drain', exact: true }).isDisabled()).toBe(true);
    await dialog.getByLabel('Deadline, minutes').fill('');
    await dialog.getByLabel('Nodes that stay').fill('2');
    await dialog.getByText(`${here} cannot be begun now`).waitFor();
    await dialog.getByRole('button', { name: 'Cancel' }).click();
  });

  test('a drain is seen live, stopped, resumed and given up', async () => {
    await fleet.api('POST', '/apis/whimbrel.dev/v1/migrationpolicies', {
      metadata: { name: 'slow' },
      spec: { bandwidthPerMigration: '100k', selectors: { virtualMachineInstanceSelector: { app: 'busy' } } },
    });
    await openDrain(here);
    await confirmDrain();
    await seen('1, at most 2 at a time');
    await page.getByRole('row', { name: /busy.*Running/ }).waitFor();
    await page.getByRole('row', { name: /pinned.*NoNodeFits/ }).waitFor();
    await visit.quiet();
    await picture(page, 'drain');
    expect(await findings(page)).toEqual([]);
    expect(await overflow(page)).toEqual([]);
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await page.getByRole('heading', { name: /Paused/ }).waitFor();
    await seen('Nothing more is begun until it is resumed');
    expect((await drainOf())?.spec?.paused).toBe(true);
    await page.getByRole('button', { name: 'Resume', exact: true }).click();
    await page.getByRole('heading', { name: /Draining/ }).waitFor();
    await go('/machines/default/busy');
    await page.getByRole('button', { name: 'Live view' }).click();
    await page.getByRole('button', { name: 'Close the live view' }).waitFor();
    await page.getByRole('list', { name: 'Phases' }).waitFor();
    await picture(page, 'beside');
    expect(await findings(page)).toEqual([]);
    await page.getByRole('button', { name: 'Close the live view' }).click();
    await go('/overview');
    await seen('1 machine cannot move as things are, and the drain waits for that.');
    await go('/nodes');
    // A node that is being emptied is not uncordoned: the drain would cordon it again.
    await page.getByRole('row', { name: new RegExp(`${here}.*Cordoned`) }).getByRole('button', { name: 'Uncordon', disabled: true }).waitFor();
    await page.getByRole('row', { name: new RegExp(here) }).getByRole('link', { name: /^drain-/ }).first().click();
    await page.getByRole('button', { name: 'Cancel drain' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel drain' }).click();
    await seen('It is given up');
    await page.getByRole('button', { name: /^Actions of busy/ }).click();
    await page.getByRole('menuitem', { name: 'Cancel migration' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel migration' }).click();
    await page.getByRole('heading', { name: /Cancelled/ }).waitFor();
    const node = await fleet.api<Node>('GET', `/api/v1/nodes/${here}`);
    expect(node.spec?.unschedulable ?? false).toBe(false);
    expect((await instance('busy')).status?.nodeName).toBe(here);
    await fleet.api('DELETE', '/apis/whimbrel.dev/v1/migrationpolicies/slow');
  });

  test('a node is emptied, the machine that held it up is stopped, and the node taken back', async () => {
    await openDrain(here);
    await confirmDrain();
    await page.getByRole('row', { name: /busy.*Succeeded/ }).waitFor();
    await page.getByRole('row', { name: /pinned.*NoNodeFits/ }).waitFor();
    await fleet.api('PATCH', `${ours}/virtualmachines/pinned`, { spec: { runStrategy: 'Halted' } });
    await seen(`${here} can be worked on`);
    await page.getByRole('row', { name: new RegExp(`${here}.*Drained.*Cordoned`) }).waitFor();
    await picture(page, 'drained');
    expect(await findings(page)).toEqual([]);
    expect((await instance('busy')).status?.nodeName).toBe(there);
    await page.getByRole('button', { name: 'Uncordon' }).click();
    await page.getByRole('row', { name: new RegExp(here) }).getByRole('button', { name: 'Cordon', exact: true }).waitFor();
    await page.setViewportSize({ width: 390, height: 844 });
    expect(await overflow(page)).toEqual([]);
    await page.setViewportSize({ width: 1280, height: 800 });
    await look();
    await fleet.api('DELETE', `${ours}/virtualmachines/pinned`);
  });

  test.skipIf(!hasKubectl())('what kubectl changes shows within a second or so, and without a reload', async () => {
    await go('/machines');
    await page.getByRole('row', { name: /busy.*Running/ }).waitFor();
    fleet.kubectl('patch', 'vm', 'busy', '--type=merge', '-p', '{"spec":{"template":{"metadata":{"labels":{"from":"kubectl"}}}}}');
    await page.getByText('from=kubectl').waitFor();
    fleet.kubectl('cordon', there);
    await page.getByRole('link', { name: 'Nodes' }).click();
    await page.getByRole('row', { name: new RegExp(`${there}.*Cordoned`) }).waitFor();
    fleet.kubectl('uncordon', there);
    await page.getByRole('row', { name: new RegExp(`${there}.*Cordoned`) }).waitFor({ state: 'detached' });
  });

  test('a migration has a forecast, and a deadline of its own', async () => {
    await visit.migrate('busy');
    const dialog = page.getByRole('dialog');
    await dialog.getByRole('row', { name: /Pre-copy.*It would be taken/ }).first().waitFor();
    await dialog.getByLabel('Deadline of this migration, seconds').fill('7 days');
    await dialog.getByText('A whole number from 0 to 604800').waitFor();
    expect(await dialog.getByRole('button', { name: 'Migrate', exact: true }).isDisabled()).toBe(true);
    await dialog.getByLabel('Deadline of this migration, seconds').fill('600');
    await dialog.getByRole('row', { name: /Deadline.*10 min.*from this migration/ }).waitFor();
    await dialog.getByRole('button', { name: 'Migrate', exact: true }).click();
    await page.waitForURL(/\/migrations\/default\//);
    await seen(`busy runs on ${there} now`);
    await page.getByRole('row', { name: /Deadline.*10 min.*from this migration/ }).waitFor();
    expect((await latest('busy'))?.status?.migrationState?.migrationConfiguration?.deadlineSeconds).toBe(600);
    await look();
  });

  test('somebody types into the serial port, also after the machine has moved and the control plane was killed', async () => {
    const terminal = page.locator('.terminal');
    const says = (word: string) => terminal.getByText(`whimbrel echo ${word}`).first().waitFor();
    const type = async (word: string) => {
      await page.getByRole('textbox', { name: /Serial console of busy/ }).pressSequentially(`${word}\n`);
      await says(word);
    };
    /** The same where the machine may still be leaving: what is typed then goes to where it was. */
    const typeThere = (word: string) =>
      fleet.until(`${word} is there`, async () => {
        await page.getByRole('textbox', { name: /Serial console of busy/ }).pressSequentially(`${word}\n`);
        return (await terminal.getByText(`whimbrel echo ${word}`).count()) > 0;
      });
    await go('/machines/default/busy/console');
    await seen('Connected. What is typed goes to the guest');
    await terminal.getByText(/clock_ns=/).first().waitFor();
    await type('hello');
    await picture(page, 'serial');
    expect(await findings(page)).toEqual([]);
    // One at a time: whoever comes second reads, and is told why.
    const second = await open(visit.browser, fleet.loginAs('operate'));
    await second.page.getByText('What needs attention').waitFor();
    await second.page.goto(`${fleet.origin()}/console/machines/default/busy/console`);
    await second.page.getByText('The console is not connected; it is tried again').waitFor();
    await second.page.locator('.terminal').getByText('whimbrel echo hello').first().waitFor();
    expect(second.sins).toEqual([]);
    await second.page.context().close();
    await fleet.api('POST', `${ours}/virtualmachineinstancemigrations`, { metadata: { name: 'typed' }, spec: { vmiName: 'busy' } });
    await fleet.until('it has moved', async () => (await fleet.phase('virtualmachineinstancemigrations', 'typed')) === 'Succeeded');
    await seen('Connected. What is typed goes to the guest');
    await typeThere('there');
    await fleet.kill();
    await seen('The console is not connected; it is tried again');
    await fleet.up();
    await seen('Connected. What is typed goes to the guest');
    await type('again');
    await look();
    // What the guest asked the terminal of whoever was here before is in the log: it is not replied to again, as keys.
    await page.keyboard.press('Escape');
    await page.getByRole('textbox', { name: /Serial console of busy/ }).pressSequentially('[6n\n\n');
    await type('asked');
    const sent: string[] = [];
    page.on('websocket', (socket) => socket.on('framesent', ({ payload }) => sent.push(payload.toString())));
    await page.reload();
    await seen('Connected. What is typed goes to the guest');
    await says('asked');
    expect(sent).toEqual([]);
    await type('later');
    expect(sent.join('')).toBe('later\r');
    // Whoever has no mouse comes out again.
    await page.keyboard.press('F6');
    await page.setViewportSize({ width: 390, height: 844 });
    expect(await overflow(page)).toEqual([]);
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  test('what a machine uses is shown as true rates', async () => {
    const counted = async () => {
      const { cpu, atSeconds } = await fleet.api<Usage>('GET', `${ours}/virtualmachineinstances/busy/metrics`);
      return [cpu.vcpuSeconds ?? 0, atSeconds] as const;
    };
    await go('/machines/default/busy/metrics');
    await seen(/vCPUs: \d+ % of a CPU/);
    await seen(/by a sample/);
    const [before, began] = await counted();
    // Until there are some looks to draw.
    await page.waitForFunction(() => (document.querySelector('[aria-label="CPU"] polyline')?.getAttribute('points') ?? '').split(' ').length >= 4);
    const [after, ended] = await counted();
    const busy = ((after - before) / (ended - began)) * 100;
    const shown = Number(/vCPUs: (\d+) %/.exec((await page.getByText(/vCPUs: \d+ % of a CPU/).first().textContent()) ?? '')?.[1]);
    // A guest that works at a steady pace: what is drawn of it is what its host has counted, give or take what else the host does.
    expect(Math.abs(shown - busy), `${shown} % shown, ${busy} % counted`).toBeLessThan(25);
    await picture(page, 'metrics');
    expect(await findings(page)).toEqual([]);
  });

  test('what a guest asks of each disk is shown, also where the machine goes', async () => {
    const image = join(fleet.directory, 'root.img');
    writeFileSync(image, '');
    truncateSync(image, 16 << 20);
    await fleet.api('POST', `${ours}/virtualmachines`, withDisk('writer', image));
    await visit.runs('writer');
    await go('/machines/default/writer/metrics');
    const disk = page.getByRole('grid', { name: 'Disks' }).getByRole('row', { name: /^root/ });
    // On a busy host the guest does little, and the VMM replies late.
    const works = () => disk.getByText(/^(?!0\.0\/)[\d.]+\/s$/).first().waitFor({ timeout: 60_000 });
    const reads = async () => (await fleet.api<Usage>('GET', `${ours}/virtualmachineinstances/writer/metrics`)).disks?.[0]?.reads ?? 0;
    await works();
    expect(await reads()).toBeGreaterThan(0);
    await fleet.api('POST', `${ours}/virtualmachineinstancemigrations`, { metadata: { name: 'along' }, spec: { vmiName: 'writer' } });
    await fleet.until('it has moved', async () => (await fleet.phase('virtualmachineinstancemigrations', 'along')) === 'Succeeded');
    await fleet.until('it is counted there', async () => (await reads()) > 0);
    await works();
    expect(await findings(page)).toEqual([]);
    await page.setViewportSize({ width: 390, height: 844 });
    expect(await overflow(page)).toEqual([]);
    await page.setViewportSize({ width: 1280, height: 800 });
    await fleet.api('DELETE', `${ours}/virtualmachines/writer`);
  });

  test('what does not run uses nothing, and says so', async () => {
    await go('/machines/default/busy/metrics');
    await fleet.api('PATCH', `${ours}/virtualmachines/busy`, { spec: { runStrategy: 'Halted' } });
    await seen('It does not run');
  });

  test('no page has asked another host for anything, or broken its own policy', () => {
    expect(visit.sins).toEqual([]);
  });
});
