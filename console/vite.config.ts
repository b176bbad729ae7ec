import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import react from '@vitejs/plugin-react';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

/** Puts a compressed copy beside each file that gets smaller by it: the control plane sends it to every browser. */
const compressed = (): Plugin => ({
  name: 'compressed',
  apply: 'build',
  writeBundle({ dir = 'dist' }) {
    for (const name of readdirSync(dir, { recursive: true, encoding: 'utf8' })) {
      if (/\.(js|css|html|svg)$/.test(name)) {
        writeFileSync(join(dir, `${name}.gz`), gzipSync(readFileSync(join(dir, name)), { level: 9 }));
      }
    }
  },
});

export default defineConfig({
  base: '/console/',
  plugins: [react(), compressed()],
  build: {
    // The folder has a file that git knows: `scripts/console` empties it.
    emptyOutDir: false,
    // An inline picture or font would be a file that the policy of the page has to allow.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1200,
  },
  test: { include: ['src/**/*.test.ts'] },
});
