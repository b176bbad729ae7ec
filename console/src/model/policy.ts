import type { Origin, Policy, PolicySpec, Values } from '../api/objects';
import { memory, quantity, rate, span } from '../lib/units';

export type ValueName = keyof Values;

export const valueNames: Record<ValueName, string> = {
  allowAutoConverge: 'Auto-converge',
  allowPostCopy: 'Post-copy',
  allowWorkloadDisruption: 'Workload disruption',
  bandwidthPerMigration: 'Bandwidth per migration',
  completionTimeoutPerGiB: 'Completion timeout',
  deadlineSeconds: 'Deadline',
  maxDowntimeMs: 'Downtime limit',
  channels: 'Channels',
  retryLimit: 'Tried again after a failure',
};

export const originNames: Record<Origin, string> = {
  Migration: 'from this migration',
  Policy: 'from the policy',
  Fleet: 'from the fleet’s settings',
  Default: 'default',
};

/** A value in words. What 0 means is said. */
export const valueText = (name: ValueName, value: Values[ValueName]): string => {
  if (typeof value === 'boolean') return value ? 'Yes' : 'No';
  if (name === 'bandwidthPerMigration') {
    const bytes = quantity(String(value ?? '0'));
    return bytes === undefined ? String(value) : bytes === 0 ? 'Unlimited' : rate(bytes);
  }
  if (name === 'completionTimeoutPerGiB') return value ? `${value} s for each GiB` : 'None: it is never given up';
  if (name === 'deadlineSeconds') return value ? span(Number(value) * 1000) : 'None';
  if (name === 'maxDowntimeMs') return value ? span(Number(value)) : 'The engine’s (300 ms)';
  if (name === 'retryLimit') return value ? `Up to ${value} times` : 'No';
  if (name === 'channels') return value ? String(value) : 'The engine’s';
  return String(value ?? '–');
};

export type Choice = '' | 'yes' | 'no';

/** What a form holds while somebody types: text, as it was typed. */
export interface Form {
  name: string;
  description: string;
  allowAutoConverge: Choice;
  allowPostCopy: Choice;
  allowWorkloadDisruption: Choice;
  bandwidth: string;
  bandwidthUnit: string;
  completionTimeoutPerGiB: string;
  deadlineSeconds: string;
  maxDowntimeMs: string;
  channels: string;
  projectLabels: Record<string, string>;
  instanceLabels: Record<string, string>;
}

export const emptyForm: Form = {
  name: '',
  description: '',
  allowAutoConverge: '',
  allowPostCopy: '',
  allowWorkloadDisruption: '',
  bandwidth: '',
  bandwidthUnit: 'Mi',
  completionTimeoutPerGiB: '',
  deadlineSeconds: '',
  maxDowntimeMs: '',
  channels: '',
  projectLabels: {},
  instanceLabels: {},
};

const DESCRIPTION = 'description';

const choice = (value: boolean | undefined): Choice => (value === undefined ? '' : value ? 'yes' : 'no');
const number = (value: number | undefined): string => (value === undefined ? '' : String(value));

export const formOf = (policy: Policy): Form => {
  const spec = policy.spec ?? {};
  const [, amount = '', unit = ''] = /^(\d+)(.*)$/.exec(spec.bandwidthPerMigration ?? '') ?? [];
  return {
    name: policy.metadata.name,
    description: policy.metadata.annotations?.[DESCRIPTION] ?? '',
    allowAutoConverge: choice(spec.allowAutoConverge),
    allowPostCopy: choice(spec.allowPostCopy),
    allowWorkloadDisruption: choice(spec.allowWorkloadDisruption),
    bandwidth: amount,
    bandwidthUnit: amount ? unit : 'Mi',
    completionTimeoutPerGiB: number(spec.completionTimeoutPerGiB),
    deadlineSeconds: number(spec.deadlineSeconds),
    maxDowntimeMs: number(spec.maxDowntimeMs),
    channels: number(spec.channels),
    projectLabels: spec.selectors?.namespaceSelector ?? {},
    instanceLabels: spec.selectors?.virtualMachineInstanceSelector ?? {},
  };
};

const LIMITS: Record<'completionTimeoutPerGiB' | 'deadlineSeconds' | 'maxDowntimeMs' | 'channels', [number, number]> = {
  completionTimeoutPerGiB: [0, 86_400],
  deadlineSeconds: [0, 604_800],
  maxDowntimeMs: [1, 2_000_000],
  channels: [1, 64],
};

/** What is wrong with what was typed, by field. */
export const wrong = (form: Form): Partial<Record<keyof Form, string>> => {
  const errors: Partial<Record<keyof Form, string>> = {};
  for (const [name, [least, most]] of Object.entries(LIMITS) as [keyof typeof LIMITS, [number, number]][]) {
    const text = form[name];
    if (text !== '' && !(/^\d+$/.test(text) && Number(text) >= least && Number(text) <= most)) {
      errors[name] = `A whole number from ${least} to ${most}.`;
    }
  }
  if (form.bandwidth !== '' && !/^\d+$/.test(form.bandwidth)) errors.bandwidth = 'A whole number.';
  return errors;
};

/** The spec that a form describes. What was left empty is left to the fleet’s settings. */
export const specOfForm = (form: Form): PolicySpec => {
  const spec: PolicySpec = {
    selectors: { namespaceSelector: form.projectLabels, virtualMachineInstanceSelector: form.instanceLabels },
  };
  if (form.allowAutoConverge) spec.allowAutoConverge = form.allowAutoConverge === 'yes';
  if (form.allowPostCopy) spec.allowPostCopy = form.allowPostCopy === 'yes';
  if (form.allowWorkloadDisruption) spec.allowWorkloadDisruption = form.allowWorkloadDisruption === 'yes';
  if (form.bandwidth) spec.bandwidthPerMigration = `${form.bandwidth}${form.bandwidth === '0' ? '' : form.bandwidthUnit}`;
  if (form.completionTimeoutPerGiB) spec.completionTimeoutPerGiB = Number(form.completionTimeoutPerGiB);
  if (form.deadlineSeconds) spec.deadlineSeconds = Number(form.deadlineSeconds);
  if (form.maxDowntimeMs) spec.maxDowntimeMs = Number(form.maxDowntimeMs);
  if (form.channels) spec.channels = Number(form.channels);
  return spec;
};

/** Fields that are in the form: of these an older value does not stay. */
const OWN = new Set<string>([...Object.keys(valueNames).filter((name) => name !== 'retryLimit'), 'selectors']);

/** The policy that a form describes. What an older one has and the form does not know stays. */
export const policyOf = (form: Form, old?: Policy): Policy => {
  const annotations = { ...old?.metadata.annotations };
  if (form.description) annotations[DESCRIPTION] = form.description;
  else Reflect.deleteProperty(annotations, DESCRIPTION);
  return {
    apiVersion: 'whimbrel.dev/v1',
    kind: 'MigrationPolicy',
    metadata: { ...old?.metadata, name: form.name, annotations },
    spec: { ...Object.fromEntries(Object.entries(old?.spec ?? {}).filter(([name]) => !OWN.has(name))), ...specOfForm(form) },
  };
};

export const matchesAll = (spec: PolicySpec | undefined): boolean =>
  Object.keys(spec?.selectors?.namespaceSelector ?? {}).length === 0 &&
  Object.keys(spec?.selectors?.virtualMachineInstanceSelector ?? {}).length === 0;

const NAME = /^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$/;
const PREFIX = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/;

/** A label as it was typed, `key=value`, or what is wrong with it. */
export const parseLabel = (typed: string): { name: string; value: string } | { error: string } => {
  const [left = '', ...rest] = typed.trim().split('=');
  if (rest.length !== 1) return { error: 'Write a label as key=value.' };
  const name = left.trim();
  const value = (rest[0] ?? '').trim();
  const slash = name.lastIndexOf('/');
  const isName = NAME.test(name.slice(slash + 1)) && (slash < 0 || PREFIX.test(name.slice(0, slash)));
  if (!isName) return { error: `“${name}” cannot be the name of a label: letters, digits, '-', '_', '.', at most 63.` };
  if (value !== '' && !NAME.test(value)) return { error: `“${value}” cannot be the value of a label: letters, digits, '-', '_', '.', at most 63.` };
  return { name, value };
};

/** A bandwidth as a table shows it. */
export const bandwidthText = (text: string | undefined): string => {
  if (text === undefined) return '–';
  const bytes = quantity(text);
  return bytes === undefined ? text : bytes === 0 ? 'Unlimited' : `${memory(bytes)}/s`;
};
