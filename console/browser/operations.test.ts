import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Drain, Node } from '../src/api/objects';
import { findings, overflow, picture } from './browser';
import { hasKubectl, machine, ours, whyNot } from './fleet';
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
    await page.getByRole('button', { name: /^Close Success alert/ }).click();
    await picture(page, 'drain');
    expect(await findings(page)).toEqual([]);
    expect(await overflow(page)).toEqual([]);
    await page.getByRole('button', { name: 'Stop', exact: true }).click();
    await page.getByRole('heading', { name: /Paused/ }).waitFor();
    await seen('Nothing more is begun until it is resumed');
    expect((await drainOf())?.spec?.paused).toBe(true);
    await page.getByRole('button', { name: 'Resume', exact: true }).click();
    await page.getByRole('heading', { name: /Draining/ }).waitFor();
    await go('/overview');
    await seen('1 machine cannot move as things are, and the drain waits for that.');
    await go('/nodes');
    // A node that is being emptied is not uncordoned: the drain would cordon it again.
    const uncordon = page.getByRole('row', { name: new RegExp(`${here}.*Cordoned`) }).getByRole('button', { name: 'Uncordon' });
    expect(await uncordon.getAttribute('aria-disabled')).toBe('true');
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

  test('a migration beside its machine, and with a deadline of its own', async () => {
    await visit.migrate('busy');
    const dialog = page.getByRole('dialog');
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

  test('no page has asked another host for anything, or broken its own policy', () => {
    expect(visit.sins).toEqual([]);
  });
});
