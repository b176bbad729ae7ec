import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { KubeObject } from '../src/api/objects';
import { findings, open, overflow } from './browser';
import { machine, ours, whyNot } from './fleet';
import { Visit } from './visit';

const HTML = '<img src=x onerror="document.title=\'pwned\'"><script>document.title="pwned"</script>';
const LONG = 'The destination did not answer, and nobody knows why. '.repeat(75).slice(0, 4000);
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
    await fleet.api('POST', '/apis/whimbrel.dev/v1/migrationpolicies', { metadata: { name: 'p' }, spec: { selectors: { virtualMachineInstanceSelector: { none: 'such' } } } });
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
    for (const name of ['Upper', '-a', 'a_b', 'ä', 'a.b', `${'a'.repeat(64)}`, HTML]) {
      await page.getByLabel('Name', { exact: true }).fill(name);
      await page.getByText(/Lower-case letters, digits and '-', with|At most 63 characters/).waitFor();
      expect(await page.getByRole('button', { name: 'Create', exact: true }).isDisabled(), name).toBe(true);
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
});
