import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Policy } from '../src/api/objects';
import { findings, jumpsOf, open, overflow, picture, watchJumps } from './browser';
import { machine, ours, whyNot } from './fleet';
import { Visit } from './visit';

const missing = whyNot();
if (missing) process.stderr.write(`SKIPPED THE CONSOLE IN A BROWSER: ${missing}\n`);

describe.skipIf(missing !== undefined)('the console', () => {
  const visit = new Visit();
  const { fleet, go, seen, instance, latest, migrate, confirmMigrate } = visit;
  let browser: Browser;
  let page: Page;
  let sins: string[];

  beforeAll(async () => {
    await visit.begin();
    ({ browser, page, sins } = visit);
  });

  afterAll(() => visit.end());

  test('the address that is printed logs in, once, and leaves no code behind', async () => {
    await seen('What needs attention');
    expect(page.url()).not.toContain('login=');
    await page.reload();
    await seen('What needs attention');
    const second = await open(browser, fleet.login());
    await second.page.getByText('this code was used already').waitFor();
    await picture(second.page, 'login');
    expect(await findings(second.page)).toEqual([]);
    await second.page.context().close();
  });

  test('a machine is created in the form, and runs', async () => {
    await go('/machines');
    await seen('There are no VirtualMachines');
    await page.getByRole('button', { name: 'Create VirtualMachine' }).first().click();
    await page.getByLabel('Name', { exact: true }).fill('busy');
    await page.getByLabel('Memory', { exact: true }).fill('128Mi');
    await page.getByLabel('Arguments of the kernel').fill('work=8M rate=1M');
    await page.getByRole('textbox', { name: 'Labels' }).fill('not a label');
    await page.getByRole('button', { name: 'Add to Labels' }).click();
    await seen('Write a label as key=value');
    await page.getByRole('textbox', { name: 'Labels' }).fill('app=busy');
    await page.getByRole('button', { name: 'Add to Labels' }).click();
    await picture(page, 'create');
    expect(await findings(page)).toEqual([]);
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    await page.waitForURL(/\/machines\/default\/busy/);
    await page.getByRole('heading', { name: /busy\s+Running/ }).waitFor();
  });

  test('it is migrated from its page: node and VMM change, and nothing else', async () => {
    const before = await instance('busy');
    await migrate('busy');
    await page.getByLabel('A named node').check();
    const other = before.status?.nodeName === 'node-a' ? 'node-b' : 'node-a';
    await page.getByRole('dialog').getByText('the machine runs there').waitFor();
    await page.getByLabel(`Migrate to ${other}`).check();
    await picture(page, 'migrate');
    expect(await findings(page)).toEqual([]);
    await confirmMigrate();
    await seen(`busy runs on ${other} now`);
    await page.getByRole('list', { name: 'What was decided, and why' }).getByRole('listitem').first().waitFor();
    await picture(page, 'migration');
    expect(await findings(page)).toEqual([]);
    const after = await instance('busy');
    expect(after.status?.nodeName).toBe(other);
    expect(after.status?.vmm).not.toBe(before.status?.vmm);
    expect(after.spec).toEqual(before.spec);
    expect({ uid: after.metadata.uid, labels: after.metadata.labels }).toEqual({ uid: before.metadata.uid, labels: before.metadata.labels });
    await go('/machines/default/busy');
    const marked = page.locator('mark');
    await marked.first().waitFor();
    expect(await marked.allTextContents()).toEqual([other, after.status?.vmm]);
    await picture(page, 'machine');
    expect(await findings(page)).toEqual([]);
  });

  test('a policy that is made in the form says whom it would change, and applies to the next migration', async () => {
    await go('/policies');
    await page.getByRole('button', { name: 'Create MigrationPolicy' }).first().click();
    await page.getByLabel('Name', { exact: true }).fill('slow');
    await seen('Without labels it applies to every machine');
    expect(await page.getByRole('button', { name: 'Create', exact: true }).isDisabled()).toBe(true);
    await page.getByRole('textbox', { name: 'VirtualMachineInstance labels' }).fill('app=busy');
    await page.getByRole('textbox', { name: 'VirtualMachineInstance labels' }).press('Enter');
    await page.getByRole('textbox', { name: 'Bandwidth per migration' }).fill('100');
    await page.getByLabel('Unit of the bandwidth').selectOption('k');
    await seen('It would apply to 1 of 1 instance now');
    await seen(/default\/busy: policy none → slow; Bandwidth per migration 0 → 100k/);
    await picture(page, 'policy-form');
    expect(await findings(page)).toEqual([]);
    await page.getByRole('button', { name: 'Create', exact: true }).click();
    await page.waitForURL(/\/policies\/slow/);
    await seen('100.0 kB/s');
    await visit.quiet();
    await picture(page, 'policy');
    const policy = await fleet.api<Policy>('GET', '/apis/whimbrel.dev/v1/migrationpolicies/slow');
    expect(policy.spec).toMatchObject({ bandwidthPerMigration: '100k', selectors: { virtualMachineInstanceSelector: { app: 'busy' } } });
    expect(await findings(page)).toEqual([]);
    await go('/policies');
    await seen('VirtualMachineInstance labels');
    await picture(page, 'policies');
    expect(await findings(page)).toEqual([]);
  });

  test('a migration is seen live, and cancelled, and what came of that is true', async () => {
    await migrate('busy');
    await seen('the only policy that applies');
    await confirmMigrate();
    await page.getByRole('img', { name: 'Remaining' }).waitFor();
    await visit.quiet();
    await picture(page, 'live');
    expect(await findings(page)).toEqual([]);
    const { nodeName } = (await instance('busy')).status ?? {};
    await page.getByRole('button', { name: 'Cancel migration' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel migration' }).click();
    await seen('It was cancelled. The machine runs where it was.');
    expect((await latest('busy'))?.status?.migrationState?.abortStatus).toBe('Succeeded');
    expect((await instance('busy')).status?.nodeName).toBe(nodeName);
  });

  test('nothing jumps while it updates', async () => {
    await fleet.api('POST', `${ours}/virtualmachineinstancemigrations`, { metadata: { name: 'steady' }, spec: { vmiName: 'busy' } });
    await fleet.until('it moves', async () => (await fleet.phase('virtualmachineinstancemigrations', 'steady')) === 'Running');
    for (const [path, text] of [
      ['/migrations/default/steady', 'On the wire'],
      ['/machines/default/busy', 'It is being migrated'],
      ['/machines', 'busy'],
      ['/migrations', 'steady'],
      ['/nodes', 'Memory used'],
      ['/overview', 'On the wire'],
      ['/machines/default/busy/metrics', 'Touched by the guest'],
    ] as const) {
      await go(path);
      await seen(text);
      const sent = async () => (await latest('busy'))?.status?.migrationState?.progress?.transferredBytes ?? 0;
      // What is there when a view is opened comes in parts, later on a busy host; what comes after it has to stay where it is.
      for (let looks = 0; looks < 10; looks++) {
        await watchJumps(page);
        await page.waitForTimeout(1500);
        if ((await jumpsOf(page)).sum === 0) break;
      }
      await watchJumps(page);
      let before = await sent();
      for (let changes = 0; changes < 3; changes++) {
        await fleet.until('it goes on', async () => (await sent()) > before);
        before = await sent();
        // Meanwhile somebody else labels the machine.
        await fleet.api('PATCH', `${ours}/virtualmachines/busy`, { metadata: { annotations: { turn: String(before) } } });
      }
      const { sum, what } = await jumpsOf(page);
      expect(sum, `${path}: ${what.join('\n')}`).toBeLessThan(0.01);
    }
    await fleet.api('PATCH', `${ours}/virtualmachineinstancemigrations/steady`, { spec: { cancel: true } });
    await fleet.until('it is over', async () => (await fleet.phase('virtualmachineinstancemigrations', 'steady')) === 'Failed');
  });

  test('a migration that fails shows its reason and advice', async () => {
    await fleet.api('PATCH', '/apis/whimbrel.dev/v1/migrationpolicies/slow', { spec: { deadlineSeconds: 2, allowWorkloadDisruption: false } });
    await migrate('busy');
    await confirmMigrate();
    await seen(/It failed: CompletionTimeout/);
    const state = (await latest('busy'))?.status?.migrationState;
    await seen(state?.failureReason ?? 'no reason');
    await go('/machines/default/busy/migrations');
    await seen('Cancelled');
    await picture(page, 'history');
    expect(await findings(page)).toEqual([]);
    await fleet.api('DELETE', '/apis/whimbrel.dev/v1/migrationpolicies/slow');
  });

  test('what another client changes shows without a reload', async () => {
    await go('/machines');
    await seen('busy');
    await fleet.api('POST', `${ours}/virtualmachines`, machine('other', '1M', { tier: 'gold' }));
    await page.getByRole('row', { name: /other.*Running/ }).waitFor();
    await page.getByLabel(/Filter by name/).fill('tier=gold');
    await page.getByRole('row', { name: /busy/ }).waitFor({ state: 'detached' });
    await page.getByLabel(/Filter by name/).fill('');
    await page.getByRole('row', { name: /busy/ }).waitFor();
    await picture(page, 'machines');
    expect(await findings(page)).toEqual([]);
  });

  test('a bulk action says beforehand whom it leaves out, and why', async () => {
    await go('/machines');
    await page.getByRole('row', { name: /busy/ }).getByRole('checkbox').check();
    await page.getByRole('row', { name: /other/ }).getByRole('checkbox').check();
    await page.getByRole('button', { name: 'Actions (2)' }).click();
    await page.getByRole('menuitem', { name: 'Start', exact: true }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByText('2 VirtualMachines are left out').waitFor();
    await dialog.getByText('default/busy: It runs already').waitFor();
    expect(await dialog.getByRole('button', { name: 'Start' }).isDisabled()).toBe(true);
    await dialog.getByRole('button', { name: 'Cancel' }).click();
  });

  test('each view is accessible in light and dark, and fits a telephone', async () => {
    await page.getByRole('button', { name: 'Use the dark theme' }).click();
    for (const [path, text, name] of [
      ['/overview', 'What needs attention', 'overview'],
      ['/migrations', 'Bandwidth now', 'migrations'],
      ['/nodes', 'Memory used', 'nodes'],
      ['/nodes/node-a', 'Migrations in', 'node'],
      ['/machines/default/busy/yaml', 'Save', 'yaml'],
      ['/machines/default/busy/events', 'Last seen', 'events'],
      ['/machines/default/busy/console', /clock_ns=/, undefined],
      ['/machines/default/busy/metrics', 'Touched by the guest', undefined],
    ] as const) {
      await page.setViewportSize({ width: 1280, height: 800 });
      await go(path);
      await seen(text);
      expect(await findings(page), `${path}, dark`).toEqual([]);
      if (name === 'migrations') await picture(page, 'dark');
      await page.getByRole('button', { name: 'Use the light theme' }).click();
      if (name) await picture(page, name);
      expect(await findings(page), path).toEqual([]);
      await page.setViewportSize({ width: 390, height: 844 });
      expect(await overflow(page), `${path} at 390 px`).toEqual([]);
      if (name === 'overview') await picture(page, 'phone');
      await page.setViewportSize({ width: 1280, height: 800 });
      await page.getByRole('button', { name: 'Use the dark theme' }).click();
    }
    await page.getByRole('button', { name: 'Use the light theme' }).click();
  });

  test('a node is cordoned, and then nothing goes there', async () => {
    const here = (await instance('busy')).status?.nodeName ?? '';
    const other = here === 'node-a' ? 'node-b' : 'node-a';
    await go('/nodes');
    await page.getByRole('row', { name: new RegExp(other) }).getByRole('button', { name: 'Cordon' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cordon' }).click();
    await page.getByRole('row', { name: new RegExp(`${other}.*Cordoned`) }).waitFor();
    await migrate('busy');
    await page.getByRole('dialog').getByText('no node fits').first().waitFor();
    await page.getByLabel('A named node').check();
    await page.getByRole('dialog').getByText('it is cordoned').first().waitFor();
    expect(await page.getByLabel(`Migrate to ${other}`).isDisabled()).toBe(true);
    await go('/nodes');
    await page.getByRole('row', { name: new RegExp(other) }).getByRole('button', { name: 'Uncordon' }).click();
    await page.getByRole('row', { name: new RegExp(other) }).getByRole('button', { name: 'Cordon', exact: true }).waitFor();
  });

  test('what others write into fields is text and never runs', async () => {
    const html = '<img src=x onerror="document.title=\'pwned\'"><script>document.title="pwned"</script>';
    await fleet.api('PATCH', `${ours}/virtualmachines/other`, { metadata: { annotations: { note: html } } });
    await fleet.api('POST', '/apis/whimbrel.dev/v1/migrationpolicies', {
      metadata: { name: 'a.b', annotations: { description: html.repeat(20) } },
      spec: { selectors: { virtualMachineInstanceSelector: { none: 'such' } } },
    });
    await go('/policies/a.b');
    await seen('<img src=x');
    await go('/machines/default/other/yaml');
    await page.getByRole('textbox', { name: 'YAML of other' }).waitFor();
    expect(await page.getByRole('textbox', { name: 'YAML of other' }).inputValue()).toContain('<script>');
    expect(await page.title()).toBe('other · Whimbrel');
  });

  test('a machine that is deleted while its page is open is gone, and the page says so', async () => {
    await go('/machines/default/other');
    await page.getByRole('heading', { name: /other/ }).waitFor();
    await fleet.api('DELETE', `${ours}/virtualmachines/other`);
    await seen('There is no VirtualMachine default/other');
  });

  test('who may only see is offered nothing that changes anything', async () => {
    const viewer = await open(browser, fleet.loginAs('view'));
    await viewer.page.getByText('What needs attention').waitFor();
    for (const path of ['/machines', '/machines/default/busy', '/migrations', '/policies', '/nodes']) {
      await viewer.page.goto(`${fleet.origin()}/console${path}`);
      await viewer.page.getByRole('heading', { level: 1 }).waitFor();
      await viewer.page.getByText(/busy|a\.b|node-a/).first().waitFor();
      const offered = viewer.page.getByRole('button', { name: /^(Actions|Create |Cordon|Drain|Cancel|Save|Delete|Edit)/ });
      expect(await offered.count(), path).toBe(0);
    }
    expect(viewer.sins).toEqual([]);
    await viewer.page.context().close();
  });

  test('the control plane is killed under an open page, says so, and comes back', async () => {
    await go('/machines/default/busy');
    await page.getByRole('heading', { name: /busy\s+Running/ }).waitFor();
    await fleet.kill();
    await seen('The connection is lost');
    expect(await findings(page)).toEqual([]);
    await fleet.up();
    await page.getByText('The connection is lost').waitFor({ state: 'detached' });
    await fleet.api('PATCH', `${ours}/virtualmachines/busy`, { spec: { runStrategy: 'Halted' } });
    await page.getByRole('heading', { name: /busy\s+Stopped/ }).waitFor();
  });

  test('a login that is not known any more leads back to the login, and says why', async () => {
    const stale = await open(browser, fleet.loginAs('view'));
    await stale.page.getByText('What needs attention').waitFor();
    await stale.page.evaluate(() => sessionStorage.setItem('whimbrel.session', JSON.stringify({ token: 'login.e30.AAAA' })));
    await stale.page.reload();
    await stale.page.getByText('Unauthorized').waitFor();
    await stale.page.context().close();
  });

  test('no page has asked another host for anything, or broken its own policy', () => {
    expect(sins).toEqual([]);
  });
});
