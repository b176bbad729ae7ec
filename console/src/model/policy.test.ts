import { expect, test } from 'vitest';
import { emptyForm, formOf, matchesAll, parseLabel, policyOf, specOfForm, valueText, wrong } from './policy';

test('a form that is read back is the same policy', () => {
  const form = {
    ...emptyForm,
    name: 'slow',
    description: 'for the night',
    allowPostCopy: 'yes' as const,
    bandwidth: '64',
    maxDowntimeMs: '50',
    instanceLabels: { app: 'busy' },
  };
  expect(formOf(policyOf(form))).toEqual(form);
});

test('what the form does not know of an older policy stays', () => {
  const old = { metadata: { name: 'slow', uid: 'u', resourceVersion: '7', labels: { a: 'b' }, annotations: { other: 'x', description: 'old' } }, spec: { later: 1, channels: 4 } };
  const next = policyOf({ ...formOf(old), description: '', channels: '' }, old);
  expect(next.metadata).toEqual({ ...old.metadata, annotations: { other: 'x' } });
  expect(next.spec).toEqual({ later: 1, selectors: { namespaceSelector: {}, virtualMachineInstanceSelector: {} } });
  const spec = { retryLimit: 3, channels: 2, allowPostCopy: true };
  expect(policyOf({ ...formOf({ ...old, spec }), channels: '' }, { ...old, spec }).spec).toEqual({
    retryLimit: 3,
    allowPostCopy: true,
    selectors: { namespaceSelector: {}, virtualMachineInstanceSelector: {} },
  });
});

test('what is left empty is left to the settings, and 0 is said', () => {
  expect(specOfForm(emptyForm)).toEqual({ selectors: { namespaceSelector: {}, virtualMachineInstanceSelector: {} } });
  expect(specOfForm({ ...emptyForm, bandwidth: '0' }).bandwidthPerMigration).toBe('0');
  expect(valueText('bandwidthPerMigration', '0')).toBe('Unlimited');
  expect(valueText('completionTimeoutPerGiB', 0)).toContain('never');
  expect(matchesAll(specOfForm(emptyForm))).toBe(true);
});

test('numbers out of range are refused before they are sent', () => {
  expect(Object.keys(wrong({ ...emptyForm, channels: '65', maxDowntimeMs: '0', deadlineSeconds: '1.5', bandwidth: '-1' }))).toEqual([
    'deadlineSeconds',
    'maxDowntimeMs',
    'channels',
    'bandwidth',
  ]);
});

test('labels are those that Kubernetes takes', () => {
  expect(parseLabel(' app = busy ')).toEqual({ name: 'app', value: 'busy' });
  expect(parseLabel('example.com/tier=')).toEqual({ name: 'example.com/tier', value: '' });
  for (const typed of ['app', 'a=b=c', '=x', 'a b=c', 'a=b c', `${'x'.repeat(64)}=y`, 'EXAMPLE.com/a=b', '<b>=x']) {
    expect(parseLabel(typed), typed).toHaveProperty('error');
  }
});
