import { parse } from 'yaml';
import type { KubeObject } from '../api/objects';
import { wordsOf } from '../api/request';

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null && !Array.isArray(value);

/** The one object that a text describes. An error says what is wrong with it. */
export const objectOf = (text: string): KubeObject => {
  let found: unknown;
  try {
    found = parse(text);
  } catch (error) {
    throw new Error(`This is no YAML: ${wordsOf(error)}`, { cause: error });
  }
  if (!isRecord(found) || !isRecord(found['metadata'])) throw new Error('This is no object: it needs at least “metadata” with a name, and “spec”.');
  return found as unknown as KubeObject;
};

/** The same, of an object that is there: what is saved would otherwise be another one. */
export const changedOf = (text: string, { metadata }: KubeObject): KubeObject => {
  const next = objectOf(text);
  const isSame = next.metadata.name === metadata.name && (next.metadata.namespace ?? metadata.namespace) === metadata.namespace;
  if (!isSame) throw new Error('Name and namespace cannot be changed: create another one instead.');
  return next;
};
