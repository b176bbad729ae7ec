import { expect, test } from 'vitest';
import { changedOf, objectOf } from './yaml';

test('what is no object is refused in words', () => {
  for (const text of ['', 'null', '[]', 'a', 'metadata: x', '- metadata: {name: a}']) expect(() => objectOf(text), text).toThrow('This is no object');
  for (const text of ['a: [', 'a: b: c', 'a: 1\n---\nb: 2', '{']) expect(() => objectOf(text), text).toThrow('This is no YAML');
  expect(objectOf('metadata: {name: a}').metadata.name).toBe('a');
});

test('what is saved is the object that was opened', () => {
  const old = { metadata: { name: 'a', namespace: 'x' } };
  expect(changedOf('metadata: {name: a}', old).metadata.name).toBe('a');
  expect(changedOf('metadata: {name: a, namespace: x}', old).metadata.namespace).toBe('x');
  for (const text of ['metadata: {name: b}', 'metadata: {name: a, namespace: y}', 'metadata: {}']) expect(() => changedOf(text, old), text).toThrow('cannot be changed');
});
