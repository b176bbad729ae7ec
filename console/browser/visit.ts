import type { Browser, Page } from 'playwright-core';
import type { Instance, Migration } from '../src/api/objects';
import { launch, open } from './browser';
import { ours, RealFleet } from './fleet';

/** A fleet with an administrator in front of it: what every test does. */
export class Visit {
  readonly fleet = new RealFleet();
  browser!: Browser;
  page!: Page;
  sins: string[] = [];

  async begin(): Promise<void> {
    await this.fleet.up();
    this.browser = await launch();
    const { page, sins } = await open(this.browser, this.fleet.login());
    this.page = page;
    this.sins = sins;
    // Whoever goes on before the login is kept has to log in again.
    await page.getByText('What needs attention').waitFor();
  }

  async end(): Promise<void> {
    // It may have come to nothing before there was a browser.
    await (this.browser as Browser | undefined)?.close();
    await this.fleet.end();
  }

  readonly go = (path: string) => this.page.goto(`${this.fleet.origin()}/console${path}`);

  readonly seen = (text: string | RegExp) => this.page.getByText(text).first().waitFor();

  /** Closes what is said of what was done. It goes by itself after a while, perhaps just now. */
  readonly quiet = async () => {
    const close = this.page.getByRole('button', { name: /^Close Success alert/ });
    await close.first().click({ timeout: 1000 }).catch(() => undefined);
    await close.first().waitFor({ state: 'detached' });
  };

  readonly instance = (name: string) => this.fleet.api<Instance>('GET', `${ours}/virtualmachineinstances/${name}`);

  /** Waits until a machine runs. */
  readonly runs = (name: string) => this.fleet.until(`${name} runs`, async () => (await this.fleet.phase('virtualmachineinstances', name)) === 'Running');

  readonly latest = async (name: string): Promise<Migration | undefined> => {
    const { items } = await this.fleet.api<{ items: Migration[] }>('GET', `${ours}/virtualmachineinstancemigrations`);
    const own = items.filter(({ spec }) => spec?.vmiName === name);
    return own.sort((one, other) => Number(other.metadata.resourceVersion) - Number(one.metadata.resourceVersion))[0];
  };

  /** Actions → Migration → Compute. */
  readonly migrate = async (name: string) => {
    await this.go(`/machines/default/${name}`);
    await this.page.getByRole('button', { name: 'Actions', exact: true }).click();
    await this.page.getByRole('menuitem', { name: 'Migration → Compute' }).click();
    await this.page.getByRole('dialog').getByText('Auto-converge', { exact: true }).waitFor();
  };

  readonly confirmMigrate = async () => {
    await this.page.getByRole('dialog').getByRole('button', { name: 'Migrate', exact: true }).click();
    await this.page.waitForURL(/\/migrations\/default\//);
  };
}
