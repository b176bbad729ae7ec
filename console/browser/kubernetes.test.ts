/** The console on a real API server of Kubernetes, for people with no more rights than its manifest gives them. */
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Migration } from '../src/api/objects';
import { findings, launch, open } from './browser';
import { Cluster, whyNoCluster } from './cluster';
import { hasKubectl, machine, whyNot } from './fleet';

const missing = whyNot() ?? whyNoCluster() ?? (hasKubectl() ? undefined : 'there is no kubectl');
if (missing) process.stderr.write(`SKIPPED THE CONSOLE ON KUBERNETES: ${missing}\n`);

describe.skipIf(missing !== undefined)('the console on Kubernetes', () => {
  const cluster = new Cluster();
  let browser: Browser;

  /** A browser of somebody who logs in with a token. */
  const logIn = async (token: string): Promise<{ page: Page; sins: string[] }> => {
    const watched = await open(browser, `${cluster.origin}/console/`);
    await watched.page.getByLabel('Or a token, as in a kubeconfig').fill(token);
    await watched.page.getByRole('button', { name: 'Log in' }).click();
    return watched;
  };

  beforeAll(async () => {
    await cluster.up();
    for (const name of ['node-a', 'node-b']) {
      cluster.create(JSON.stringify({ apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { 'kubernetes.io/hostname': name } } }));
      const status = { conditions: [{ type: 'Ready', status: 'True' }, { type: 'WhimbrelReady', status: 'True' }] };
      cluster.kubectl('patch', 'node', name, '--subresource=status', '--type=merge', '-p', JSON.stringify({ status }));
    }
    cluster.create(JSON.stringify(machine('busy', '1M')));
    const spec = (machine('busy', '1M') as { spec: { template: { spec: object } } }).spec.template.spec;
    cluster.create(JSON.stringify({ apiVersion: 'whimbrel.dev/v1', kind: 'VirtualMachineInstance', metadata: { name: 'busy' }, spec }));
    const status = { phase: 'Running', nodeName: 'node-a', vmm: 'busy-1', conditions: [{ type: 'Ready', status: 'True' }] };
    cluster.kubectl('patch', 'vmi', 'busy', '--subresource=status', '--type=merge', '-p', JSON.stringify({ status }));
    cluster.kubectl('patch', 'vm', 'busy', '--subresource=status', '--type=merge', '-p', '{"status":{"printableStatus":"Running","ready":true,"created":true}}');
    browser = await launch();
  }, 180_000);

  afterAll(async () => {
    await (browser as Browser | undefined)?.close();
    await cluster.end();
  });

  test('who may operate logs in with a token, sees every view, and has a machine migrated', async () => {
    const { page, sins } = await logIn(cluster.personWith('operate'));
    await page.getByText('What needs attention').waitFor();
    for (const [path, text] of [
      ['/machines', 'busy'],
      ['/migrations', 'Bandwidth now'],
      ['/policies', 'There are no MigrationPolicies'],
      ['/nodes', 'node-b'],
      ['/nodes/node-a', 'WhimbrelReady'],
    ] as const) {
      await page.goto(`${cluster.origin}/console${path}`);
      await page.getByText(text).first().waitFor();
      expect(await page.getByText(/forbidden|cannot be shown|The connection is lost/).count(), path).toBe(0);
    }
    await page.goto(`${cluster.origin}/console/machines/default/busy`);
    await page.getByRole('button', { name: 'Actions', exact: true }).click();
    await page.getByRole('menuitem', { name: 'Migration → Compute' }).click();
    // Questions are our own server's. Kubernetes refuses them to whoever has no right to everything.
    await page.getByText('This API server does not say beforehand').waitFor();
    await page.getByLabel('Where to').selectOption('node-b');
    expect(await findings(page)).toEqual([]);
    await page.getByRole('dialog').getByRole('button', { name: 'Migrate', exact: true }).click();
    await page.waitForURL(/\/migrations\/default\/busy-/);
    const { items } = JSON.parse(cluster.kubectl('get', 'vmim', '-o', 'json')) as { items: Migration[] };
    expect(items.map(({ spec }) => spec)).toMatchObject([{ vmiName: 'busy', addedNodeSelector: { 'kubernetes.io/hostname': 'node-b' } }]);
    // What kubectl changes shows without a reload here too.
    await page.goto(`${cluster.origin}/console/machines`);
    await page.getByRole('row', { name: /busy.*Running/ }).waitFor();
    cluster.kubectl('patch', 'vm', 'busy', '--type=merge', '-p', '{"spec":{"template":{"metadata":{"labels":{"from":"kubectl"}}}}}');
    await page.getByText('from=kubectl').waitFor();
    expect(sins).toEqual([]);
    await page.context().close();
  });

  test('who may see is offered nothing that changes anything', async () => {
    const { page, sins } = await logIn(cluster.personWith('view'));
    await page.getByText('What needs attention').waitFor();
    await page.goto(`${cluster.origin}/console/machines/default/busy`);
    await page.getByRole('heading', { name: /busy\s+Running/ }).waitFor();
    expect(await page.getByRole('button', { name: /^(Actions|Create |Cordon|Drain|Cancel|Save|Delete|Edit)/ }).count()).toBe(0);
    expect(sins).toEqual([]);
    await page.context().close();
  });

  test('a token that the cluster does not know logs nobody in', async () => {
    const { page } = await logIn('0'.repeat(40));
    await page.getByText('Unauthorized').waitFor();
    expect(await findings(page)).toEqual([]);
    await page.context().close();
  });
});
