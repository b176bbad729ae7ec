import type { Drain, DrainPhase, DrainSpec, DrainStep } from '../api/objects';
import { span } from '../lib/units';

export const drainPhaseOf = (drain: Drain): DrainPhase => drain.status?.phase ?? 'Pending';

export const isDrainOver = (drain: Drain): boolean => ['Succeeded', 'Failed', 'Cancelled'].includes(drainPhaseOf(drain));

/** The drains that go on and name a node. */
export const drainsOf = (drains: readonly Drain[], node: string): Drain[] => drains.filter((drain) => !isDrainOver(drain) && drain.spec?.nodes?.includes(node));

/** How much of it is done, 0 to 100, by machines. One that was to empty nodes on which nothing is, is done when it says so. */
export const drainPercent = (drain: Drain): number => {
  if (drainPhaseOf(drain) === 'Succeeded') return 100;
  const { moved = 0, left = 0, machines = 0 } = drain.status ?? {};
  // Those whose run has ended are neither moved nor left. One of an older release does not count them.
  const all = Math.max(machines, moved + left);
  return all === 0 ? 0 : Math.floor(((all - left) / all) * 100);
};

/** Where it stands, in a sentence: its own, or what it was told last. */
export const drainStory = (drain: Drain): string | undefined => {
  if (drain.spec?.cancel && !isDrainOver(drain)) return 'It is given up. Migrations under way are brought to their end.';
  if (drain.spec?.paused && !isDrainOver(drain)) return 'Nothing more is begun until it is resumed. Migrations under way go on.';
  const told = drain.status?.conditions?.find(({ type }) => type === 'Complete')?.message;
  return told ?? (drainPhaseOf(drain) === 'Pending' ? 'Nothing was done yet.' : undefined);
};

/** What is done to a drain that goes on. */
export type DrainAction = 'stop' | 'resume' | 'cancel';

export const drainActionNames: Record<DrainAction, string> = { stop: 'Stop', resume: 'Resume', cancel: 'Cancel drain' };

export const drainPatches: Record<DrainAction, object> = {
  stop: { spec: { paused: true } },
  resume: { spec: { paused: false } },
  cancel: { spec: { cancel: true } },
};

/** Why an action cannot be done now, in a sentence; undefined if it can. */
export const whyNotDrain = (action: DrainAction, drain: Drain): string | undefined => {
  if (isDrainOver(drain)) return 'It is over.';
  if (drain.spec?.cancel || drain.metadata.deletionTimestamp) return 'It is being given up already.';
  if (action === 'stop' && drain.spec?.paused) return 'It is stopped already.';
  if (action === 'resume' && !drain.spec?.paused) return 'It goes on.';
  return undefined;
};

/** What the form of a drain holds, as it was typed. */
export interface DrainForm {
  /** Minutes; empty: none. */
  deadline: string;
  minAvailable: string;
}

export const emptyDrain: DrainForm = { deadline: '', minAvailable: '1' };

/** The longest deadline, in minutes: 30 days. */
const LONGEST = 43_200;

/** What is wrong with what was typed, by field. */
export const wrongDrain = (form: DrainForm): Partial<Record<keyof DrainForm, string>> => {
  const errors: Partial<Record<keyof DrainForm, string>> = {};
  const isWhole = (text: string, least: number, most: number) => /^\d{1,9}$/.test(text) && Number(text) >= least && Number(text) <= most;
  if (form.deadline !== '' && !isWhole(form.deadline, 1, LONGEST)) errors.deadline = `A whole number from 1 to ${LONGEST} (30 days).`;
  if (!isWhole(form.minAvailable, 0, 100_000)) errors.minAvailable = 'A whole number from 0 to 100000.';
  return errors;
};

/** The drain that was typed; undefined while something is wrong with it. */
export const drainSpecOf = (nodes: readonly string[], form: DrainForm): DrainSpec | undefined => {
  if (nodes.length === 0 || Object.keys(wrongDrain(form)).length > 0) return undefined;
  return { nodes: [...nodes], minAvailable: Number(form.minAvailable), ...(form.deadline === '' ? {} : { deadlineSeconds: Number(form.deadline) * 60 }) };
};

/** Seconds as people say them. */
export const secondsText = (seconds: number): string => (seconds === 0 ? 'at once' : span(seconds * 1000));

const bases: Record<string, string> = {
  Machine: 'its own last migration',
  Fleet: 'what other machines took',
  Assumed: '250 MB/s, for want of anything better',
};

/** What a time is foretold from. One that this console does not know is shown as it is. */
export const basisText = ({ basis }: DrainStep): string => (basis === undefined ? '–' : (bases[basis] ?? basis));

/** Where a machine goes, or what becomes of it instead. */
export const targetText = ({ targetNode, movesAgain, ended }: DrainStep): string =>
  ended ? 'Nowhere: its run ends' : movesAgain ? `${targetNode} (it moves again from there)` : targetNode;

/** The first of a list with the others counted. */
export const firstOf = <T,>(all: readonly T[], count: number): [T[], number] => [all.slice(0, count), Math.max(0, all.length - count)];
