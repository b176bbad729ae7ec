import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { type Browser, chromium as engine, type Page } from 'playwright-core';
import { chromium } from './fleet';
import type { Picture } from './pictures';

const flags = ['--no-sandbox', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run', '--disable-quic'];

export const launch = (): Promise<Browser> => engine.launch({ executablePath: chromium, args: flags });

export interface Watched {
  page: Page;
  /** Requests to any other host than that of the fleet, and errors of the page's own. */
  sins: string[];
}

/** A page in a browser profile of its own, which is looked over the shoulder. */
export const open = async (browser: Browser, url: string, size = { width: 1280, height: 800 }): Promise<Watched> => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: size, reducedMotion: 'reduce' });
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  const sins: string[] = [];
  const { origin } = new URL(url);
  page.on('request', (request) => {
    if (!request.url().startsWith(origin) && !request.url().startsWith('data:')) sins.push(`request to ${request.url()}`);
  });
  page.on('pageerror', (error) => sins.push(`error: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error' && /Content Security Policy|React/.test(message.text())) sins.push(message.text());
  });
  await page.goto(url);
  return { page, sins };
};

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** Waits until nothing changes its colour or place any more: halfway between two themes, no contrast is right. */
const settled = (page: Page): Promise<void> =>
  page.evaluate(async () => {
    const ends = (animation: Animation) => animation.effect?.getComputedTiming().iterations !== Infinity;
    // One that is given up is over as well.
    await Promise.allSettled(document.getAnimations().filter(ends).map((animation) => animation.finished));
  });

/** What axe finds on a page, in a line each. */
export const findings = async (page: Page): Promise<string[]> => {
  await settled(page);
  await page.evaluate(axe);
  return page.evaluate(async () => {
    const tool = (window as unknown as { axe: { run: () => Promise<{ violations: { id: string; help: string; nodes: { html: string }[] }[] }> } }).axe;
    const { violations } = await tool.run();
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
  });
};

const place = process.env['WHIMBREL_SCREENSHOTS'];

/** A picture of a page for the documentation, if pictures are wanted. */
export const picture = async (page: Page, name: Picture): Promise<void> => {
  if (!place) return;
  mkdirSync(place, { recursive: true });
  await page.evaluate(hostless);
  await page.screenshot({ path: join(place, `${name}.png`), animations: 'disabled' });
};

/** Leaves out what the host of the tests calls its own kernel. Runs in the page. */
const hostless = (): void => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const [, release] = /^(\d+\.\d+\.\d+)-\S+$/.exec(texts.currentNode.nodeValue ?? '') ?? [];
    if (release) texts.currentNode.nodeValue = release;
  }
};

/** What makes the page wider than its window, so that one would have to scroll sideways. */
export const overflow = (page: Page): Promise<string[]> =>
  page.evaluate(() => {
    if (document.documentElement.scrollWidth <= window.innerWidth) return [];
    const wide = [...document.querySelectorAll('body *')].filter((element) => element.getBoundingClientRect().right > window.innerWidth);
    return wide.slice(0, 5).map((element) => element.outerHTML.slice(0, 150));
  });

interface Shift {
  value: number;
  hadRecentInput: boolean;
  sources: { node: Node | null; previousRect: DOMRect; currentRect: DOMRect }[];
}

/** By how much what is on a page was moved by anything but its user, as browsers count it, and what it was. 0.1 is what people begin to notice. */
export interface Jumps {
  sum: number;
  what: string[];
}

/** Begins to watch whether anything jumps. */
export const watchJumps = (page: Page): Promise<void> =>
  page.evaluate(() => {
    const jumps: { sum: number; what: string[] } = { sum: 0, what: [] };
    const observer = new PerformanceObserver((list) => {
      for (const { value, hadRecentInput, sources } of list.getEntries() as unknown as Shift[]) {
        if (hadRecentInput) continue;
        jumps.sum += value;
        const place = ({ x, y, width, height }: DOMRect) => [x, y, width, height].map(Math.round).join(' ');
        const name = (node: Node | null) => (node instanceof Element ? `${node.outerHTML.slice(0, 60)} “${(node.textContent ?? '').slice(0, 30)}”` : (node?.textContent ?? '').slice(0, 30));
        jumps.what.push(`${value.toFixed(4)}: ${sources.map(({ node, previousRect, currentRect }) => `${name(node)} ${place(previousRect)} → ${place(currentRect)}`).join(' | ')}`);
      }
    });
    observer.observe({ type: 'layout-shift' });
    Object.assign(window, { jumps });
  });

export const jumpsOf = (page: Page): Promise<Jumps> => page.evaluate(() => (window as unknown as { jumps: Jumps }).jumps);
