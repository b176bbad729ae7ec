import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { KubeObject, Policy } from '../src/api/objects';
import { findings, open, overflow } from './browser';
import { machine, ours, whyNot } from './fleet';
import { Visit } from './visit';

const HTML = '<img src=x onerror="document.title=\'pwned\'"><script>document.title="pwned"</script>';
const LONG = 'The destination did not answer, and nobody knows why. '.repeat(75).slice(0, 4000);
const policies = '/apis/whimbrel.dev/v1/migrationpolicies';
const paths = ['/overview', '/machines', '/machines/default/busy', '/machines/default/busy/events', '/machines/default/busy/migrations', '/migrations', '/migrations/default/m', '/policies', '/policies/p', '/policies/p/edit', '/nodes', '/drains/d'];

/** Fields that say what an object is or where it stands: without them it would not be found, or not be looked at. */
const KEPT = new Set(['name', 'namespace', 'uid', 'resourceVersion', 'vmiName', 'kind', 'apiVersion', 'phase', 'type', 'nodes']);

/** An object with something else in every field that is text. */
const everywhere = (value: unknown, text: string, key = ''): unknown => {
  if (Array.isArray(value)) return key === 'nodes' ? value : value.map((one) => everywhere(one, text, key));
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, everywhere(one, text, name)]));
  return typeof value === 'string' && !KEPT.has(key) ? text : value;
};

describe.skipIf(whyNot() !== undefined)('what is not as it should be', () => {
  const visit = new Visit();
  const { fleet } = visit;

  /** Looks at every view in a browser to which the server says something else than it does. */
  const lookEverywhere = async (change: (object: KubeObject) => unknown, look: (page: Page, path: string) => Promise<void>): Promise<void> => {
    const { page, sins } = await open(visit.browser, fleet.loginAs('admin'));
    await page.getByText('What needs attention').waitFor();
    await page.route(/\/apis?\//, async (route) => {
      const request = route.request();
      if (request.method() !== 'GET') return route.continue();
      // Changes would undo it.
      if (request.url().includes('watch=true')) return route.fulfill({ status: 200, body: '' });
      const response = await route.fetch();
      const list = (await response.json()) as { items?: KubeObject[] };
      return route.fulfill({ response, json: list.items ? { ...list, items: list.items.map(change) } : list });
    });
    for (const path of paths) {
      await page.goto(`${fleet.origin()}/console${path}`);
      await page.getByRole('heading', { level: 1 }).waitFor();
      await page.waitForFunction(() => document.querySelector('[aria-label="Loading"]') === null);
      await look(page, path);
    }
    expect(sins).toEqual([]);
    await page.unrouteAll({ behavior: 'ignoreErrors' });
    await page.context().close();
  };

  beforeAll(async () => {
    await visit.begin();
    await fleet.api('POST', `${ours}/virtualmachines`, machine('busy', '1M'));
    await fleet.api('POST', policies, { metadata: { name: 'p' }, spec: { selectors: { virtualMachineInstanceSelector: { none: 'such' } } } });
    await visit.runs('busy');
    await fleet.api('POST', `${ours}/virtualmachineinstancemigrations`, { metadata: { name: 'm' }, spec: { vmiName: 'busy' } });
    await fleet.until('m is over', async () => (await fleet.phase('virtualmachineinstancemigrations', 'm')) === 'Succeeded');
    const { nodeName = '' } = (await visit.instance('busy')).status ?? {};
    await fleet.api('POST', '/apis/whimbrel.dev/v1/nodedrains', { metadata: { name: 'd' }, spec: { nodes: [nodeName], paused: true } });
  });

  afterAll(() => visit.end());

  test('objects without a status, or with nothing but a name, break no view', async () => {
    await lookEverywhere(
      ({ metadata: { name, namespace, uid, resourceVersion } }) => ({ metadata: { name, namespace, uid, resourceVersion } }),
      async (page, path) => {
        expect(await page.getByText(/undefined|NaN|\[object/).count(), path).toBe(0);
      },
    );
  });

  test('HTML in every field is text, and never runs', async () => {
    await lookEverywhere(
      (object) => everywhere(object, HTML),
      async (page, path) => {
        expect(await page.title(), path).not.toContain('pwned');
      },
    );
  });

  test('reasons of 4,000 characters fit a window and a telephone', async () => {
    await lookEverywhere(
      (object) => everywhere(object, LONG),
      async (page, path) => {
        expect(await overflow(page), path).toEqual([]);
        await page.setViewportSize({ width: 390, height: 844 });
        expect(await overflow(page), `${path} at 390 px`).toEqual([]);
        await page.setViewportSize({ width: 1280, height: 800 });
      },
    );
  });

  test('names and labels that are none are refused with a reason, and what is allowed is taken', async () => {
    const { page } = visit;
    await visit.go('/machines/~new');
    for (const name of ['Upper', '-a', 'a_b', 'ä', 'a..b', `${'a'.repeat(254)}`, HTML]) {
      await page.getByLabel('Name', { exact: true }).fill(name);
      await page.getByText(/Lower-case letters, digits, '-' and '.', with|At most 253 characters/).waitFor();
      expect(await page.getByRole('button', { name: 'Create', exact: true }).isDisabled(), name).toBe(true);
    }
    for (const name of ['a.b-1', 'a'.repeat(253)]) {
      await page.getByLabel('Name', { exact: true }).fill(name);
      await page.getByRole('button', { name: 'Create', exact: true, disabled: false }).waitFor();
    }
    const label = page.getByRole('textbox', { name: 'Labels' });
    for (const wrong of ['a', 'a=b=c', '=b', `${'k'.repeat(64)}=v`, `a=${HTML}`, 'a=-']) {
      await label.fill(wrong);
      await label.press('Enter');
      expect(await label.getAttribute('aria-invalid'), wrong).toBe('true');
    }
    for (const right of ['a=', 'example.com/a.b_c-d=1.2_3-4', `${'k'.repeat(63)}=${'v'.repeat(63)}`]) {
      await label.fill(right);
      await label.press('Enter');
      await page.getByText(right, { exact: true }).waitFor();
    }
    expect(await findings(page)).toEqual([]);
  });

  test('a browser whose clock is an hour wrong shows the right times', async () => {
    const { page } = await open(visit.browser, fleet.loginAs('admin'));
    await page.getByText('What needs attention').waitFor();
    for (const hours of [-1, 1]) {
      await page.clock.install({ time: Date.now() + hours * 3600_000 });
      await page.goto(`${fleet.origin()}/console/machines/default/busy`);
      await page.locator('time').first().getByText(/^(just now|\d+ s ago|[1-9] min ago)$/).waitFor();
    }
    await page.context().close();
  });

  test('a login that ends while its page is open leads back to the login, and says so', async () => {
    const { page } = await open(visit.browser, fleet.loginAs('admin'));
    await page.getByText('What needs attention').waitFor();
    await page.goto(`${fleet.origin()}/console/nodes`);
    await page.getByRole('button', { name: /^Drain node-/ }).waitFor();
    await page.route(/\/apis\/whimbrel.dev/, (route) =>
      route.fulfill({ status: 401, json: { kind: 'Status', apiVersion: 'v1', status: 'Failure', code: 401, reason: 'Unauthorized', message: 'Unauthorized' } }),
    );
    await page.getByRole('button', { name: /^Drain node-/ }).click();
    await page.getByText('Your login has expired. Log in again.').waitFor();
    await page.context().close();
  });

  test('names of 253 letters are shown whole, and fit a window and a telephone', async () => {
    const { page } = visit;
    const name = `${'n'.repeat(250)}.bc`;
    const halted = machine(name, '1M', { app: 'v'.repeat(63), [`${'p'.repeat(60)}.example/${'k'.repeat(63)}`]: 'v'.repeat(63) }) as { spec: { runStrategy: string } };
    halted.spec.runStrategy = 'Halted';
    await fleet.api('POST', `${ours}/virtualmachines`, halted);
    await fleet.api('POST', policies, { metadata: { name }, spec: { selectors: { virtualMachineInstanceSelector: { app: 'v'.repeat(63) } } } });
    for (const path of ['/machines', `/machines/default/${name}`, '/policies', `/policies/${name}`, `/policies/${name}/edit`]) {
      for (const width of [1280, 390]) {
        await page.setViewportSize({ width, height: 844 });
        await visit.go(path);
        await page.getByText(name).first().waitFor();
        expect(await overflow(page), `${path} at ${width} px`).toEqual([]);
      }
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    await fleet.api('DELETE', `${ours}/virtualmachines/${name}`);
    await fleet.api('DELETE', `${policies}/${name}`);
  });

  test('requests that fail once at the start of a login are no end of it', async () => {
    const { page } = await open(visit.browser, `${fleet.origin()}/console/`);
    const failed = new Set<string>();
    await page.route(/selfsubject|console.session/, (route) => {
      const url = route.request().url();
      if (failed.has(url)) return route.continue();
      failed.add(url);
      return route.request().url().includes('selfsubjectreviews') ? route.abort() : route.fulfill({ status: 503, body: 'no upstream' });
    });
    await page.goto(fleet.loginAs('admin'));
    // The address differs from that of before by its fragment alone.
    await page.reload();
    await page.getByText('What needs attention').waitFor();
    expect(failed.size).toBe(3);
    await page.context().close();
  });

  test('each request fails once, or takes its time: every view comes, and no dialog does a thing twice', async () => {
    const { page, sins } = await open(visit.browser, fleet.loginAs('admin'));
    await page.getByText('What needs attention').waitFor();
    const failed = new Set<string>();
    let migrations = 0;
    await page.route(/\/apis?\//, async (route) => {
      const request = route.request();
      const key = `${page.url()} ${request.method()} ${request.url()}`;
      if (request.method() === 'POST' && request.url().includes('/virtualmachineinstancemigrations?')) {
        migrations += 1;
        await new Promise((done) => setTimeout(done, 1000));
        return route.fulfill({ status: 409, json: { message: 'not now' } });
      }
      if (!failed.has(key)) {
        failed.add(key);
        return failed.size % 2 === 0 ? route.abort() : route.fulfill({ status: 500, body: '<html>oops</html>' });
      }
      return route.continue();
    });
    for (const path of paths) {
      await page.goto(`${fleet.origin()}/console${path}`);
      await page.getByRole('heading', { level: 1 }).waitFor();
      await page.waitForFunction(() => document.querySelector('[aria-label="Loading"]') === null && !document.body.innerText.includes('The connection is lost'));
    }
    await page.goto(`${fleet.origin()}/console/machines/default/busy`);
    await page.getByRole('button', { name: 'Actions', exact: true }).click();
    await page.getByRole('menuitem', { name: 'Migration → Compute' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByText('Auto-converge', { exact: true }).waitFor();
    await dialog.getByRole('button', { name: 'Migrate', exact: true }).dblclick();
    await page.getByText('not now').waitFor();
    expect(migrations).toBe(1);
    // What was typed is still there, and it can be tried again.
    await dialog.getByRole('button', { name: 'Migrate', exact: true, disabled: false }).waitFor();
    expect(sins).toEqual([]);
    await page.unrouteAll({ behavior: 'ignoreErrors' });
    await page.context().close();
  });

  test('what kubectl changes under an open form is said, and not overwritten', async () => {
    const { page } = visit;
    await fleet.api('POST', policies, { metadata: { name: 'a.form' }, spec: { channels: 2, selectors: { virtualMachineInstanceSelector: { none: 'such' } } } });
    const channels = page.getByLabel('Channels', { exact: true });
    const save = page.getByRole('button', { name: 'Save', exact: true });
    await visit.go('/policies/a.form/edit');
    await channels.fill('8');
    await fleet.api('PATCH', `${policies}/a.form`, { spec: { maxDowntimeMs: 77 } });
    await visit.seen('It has changed meanwhile');
    expect(await channels.inputValue()).toBe('8');
    await save.click();
    await visit.seen('a.form was not saved');
    await page.getByRole('button', { name: 'Reload' }).click();
    expect(await page.getByLabel('Downtime limit, milliseconds').inputValue()).toBe('77');
    await channels.fill('8');
    await save.click();
    await page.waitForURL(/\/policies\/a\.form$/);
    const { spec } = await fleet.api<Policy>('GET', `${policies}/a.form`);
    expect(spec).toMatchObject({ channels: 8, maxDowntimeMs: 77 });
    // As YAML: nothing at all, another object, and what is none.
    await page.getByRole('tab', { name: 'YAML' }).click();
    const yaml = page.getByRole('textbox', { name: 'YAML of a.form' });
    for (const [text, said] of [['', 'This is no object'], ['metadata: {name: other}', 'cannot be changed'], ['a: [', 'This is no YAML']] as const) {
      await yaml.fill(text);
      await save.click();
      await visit.seen(said);
    }
    await fleet.api('DELETE', `${policies}/a.form`);
    await visit.seen('There is no MigrationPolicy a.form');
  });

  test('a second tab need not log in, and whoever logs out has logged out of both', async () => {
    const { page } = await open(visit.browser, fleet.loginAs('admin'));
    await page.getByText('What needs attention').waitFor();
    const second = await page.context().newPage();
    await second.goto(`${fleet.origin()}/console/machines`);
    await second.getByRole('link', { name: 'busy', exact: true }).waitFor();
    await page.getByRole('button', { name: 'Log out' }).click();
    await second.getByText('You logged out in another tab.').waitFor();
    const third = await page.context().newPage();
    await third.goto(`${fleet.origin()}/console/machines`);
    await third.getByLabel('Or a token, as in a kubeconfig').waitFor();
    await page.context().close();
  });

  test('of many things that are refused it is said once, with how many were done', async () => {
    const { page } = visit;
    await visit.go('/machines');
    await page.getByRole('link', { name: 'busy', exact: true }).waitFor();
    await page.getByRole('checkbox', { name: /Select all/ }).check();
    await page.route(/virtualmachineinstances\/busy/, (route) => (route.request().method() === 'PATCH' ? route.fulfill({ status: 403, json: { message: LONG } }) : route.continue()));
    await page.getByRole('button', { name: 'Actions (1)' }).click();
    await page.getByRole('menuitem', { name: 'Pause', exact: true }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Pause' }).click();
    await visit.seen(/0 of 1 done, 1 refused/);
    expect(await overflow(page)).toEqual([]);
    await page.unrouteAll({ behavior: 'ignoreErrors' });
  });
});
