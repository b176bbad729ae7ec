import { readdirSync, readFileSync, statSync } from 'node:fs';
import { expect, test } from 'vitest';
import { pictures } from '../browser/pictures';

const folder = '../docs/console';

test('the documentation has every picture that the browser tests make, and no other, and shows it', () => {
  expect(readdirSync(folder).sort()).toEqual(pictures.map((name) => `${name}.png`).sort());
  const page = readFileSync('../docs/console.md', 'utf8');
  for (const name of pictures) {
    expect(page).toContain(`(console/${name}.png)`);
    // Everybody who clones has them all.
    expect(statSync(`${folder}/${name}.png`).size, name).toBeLessThan(150 * 1024);
  }
});
