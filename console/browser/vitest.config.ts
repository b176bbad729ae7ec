import { defineConfig } from 'vitest/config';

// One fleet, one browser, one step after the other: what a person does.
export default defineConfig({
  test: {
    include: ['browser/**/*.test.ts'],
    fileParallelism: false,
    testTimeout: 120_000,
    hookTimeout: 120_000,
    bail: 1,
  },
});
