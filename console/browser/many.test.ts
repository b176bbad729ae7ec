/**
 * The list with many machines of a real fleet: WHIMBREL_MACHINES=10000 makes it a measurement. The machines are halted, so that it is the control
 * plane and the browser that work. Figures are printed and not judged: a slow machine is no failure.
 */
import { readFileSync } from 'node:fs';
import { connect } from 'node:http2';
import { join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { launch, open } from './browser';
import { machine, ours, RealFleet, whyNot } from './fleet';

const count = Number(process.env['WHIMBREL_MACHINES'] ?? 300);
const say = (text: string) => process.stdout.write(`${text}\n`);

describe.skipIf(whyNot() !== undefined)('a list of many machines', () => {
  const fleet = new RealFleet();
  let browser: Browser;
  let page: Page;
  let send: (method: string, path: string, type: string, body: object) => Promise<void>;

  beforeAll(async () => {
    await fleet.up();
    const client = connect(fleet.origin(), { rejectUnauthorized: false });
    const authorization = `Bearer ${readFileSync(join(fleet.directory, 'tokens/admin'), 'utf8').trim()}`;
    send = (method, path, type, body) =>
      new Promise((done, failed) => {
        const stream = client.request({ ':method': method, ':path': path, authorization, 'content-type': type });
        stream.on('response', ({ ':status': status }) => Number(status) < 300 || failed(new Error(`${method} ${path}: ${status ?? ''}`)));
        stream.on('end', done).on('error', failed).resume();
        stream.end(JSON.stringify(body));
      });
    browser = await launch();
  });

  afterAll(async () => {
    await browser?.close();
    await fleet.end();
  });

  test('is shown a page at a time, and found by name', { timeout: 600_000 }, async () => {
    const names = Array.from({ length: count }, (_, index) => `vm-${index}`);
    const worker = async () => {
      for (let name = names.pop(); name !== undefined; name = names.pop()) {
        const object = machine(name, '1M') as { spec: { runStrategy: string } };
        object.spec.runStrategy = 'Halted';
        await send('POST', `${ours}/virtualmachines`, 'application/json', object);
      }
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    ({ page } = await open(browser, fleet.login()));
    await page.getByText('What needs attention').waitFor();
    await page.goto(`${fleet.origin()}/console/machines`);
    await page.getByRole('link', { name: 'vm-0', exact: true }).waitFor();
    const [paint, rows] = await page.evaluate(() => [performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0, performance.now()]);
    say(`${count} machines: first paint after ${paint?.toFixed(0) ?? ''} ms, rows after ${rows?.toFixed(0) ?? ''} ms`);
    expect(await page.getByRole('link', { name: /^vm-/ }).count()).toBe(20);
    await page.getByLabel(/Filter by name/).fill(`vm-${count - 1}`);
    await page.getByRole('link', { name: `vm-${count - 1}`, exact: true }).waitFor();
    await page.getByLabel(/Filter by name/).fill('');
  });

  test('stays live while fifty things change each second', async () => {
    await page.evaluate(() => {
      const frames: number[] = [];
      let last = performance.now();
      const look = (now: number) => {
        frames.push(now - last);
        last = now;
        requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
      Object.assign(window, { frames });
    });
    const changes = 100;
    const begun = performance.now();
    for (let index = 0; index < changes; index++) {
      const change = { spec: { template: { metadata: { labels: { step: String(index) } } } } };
      await send('PATCH', `${ours}/virtualmachines/vm-${index % 10}`, 'application/merge-patch+json', change);
      const wait = (index + 1) * 20 - (performance.now() - begun);
      if (wait > 0) await new Promise((done) => setTimeout(done, wait));
    }
    const seconds = (performance.now() - begun) / 1000;
    await page.getByText(`step=${changes - 1}`).waitFor();
    const frames = await page.evaluate(() => (window as unknown as { frames: number[] }).frames);
    const sorted = [...frames].sort((one, other) => one - other);
    const late = frames.filter((frame) => frame > 100).length;
    const median = sorted[Math.floor(sorted.length / 2)] ?? 0;
    say(`${(changes / seconds).toFixed(0)} changes a second: frames of ${median.toFixed(0)} ms, the longest ${sorted.at(-1)?.toFixed(0) ?? ''} ms, ${late} of ${frames.length} over 100 ms`);
    expect(frames.length).toBeGreaterThan(0);
  });
});
