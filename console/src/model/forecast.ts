import type { Forecast, Plan, PlannedTarget } from '../api/objects';
import { rate, span } from '../lib/units';

const modes: Record<string, string> = {
  precopy: 'Pre-copy',
  downtime: 'Pre-copy, with a longer downtime',
  throttle: 'Pre-copy, with the guest slowed',
  postcopy: 'Post-copy',
  immediate: 'Stopped while it moves',
};

/** A means in words; one that this console does not know is shown as it is. */
export const modeText = (mode: string): string => modes[mode] ?? mode;

const bases: Record<string, string> = {
  Way: 'measured between these two nodes',
  Fleet: 'what other migrations had',
  Policy: 'what the policy allows',
  Assumed: 'assumed, for want of anything better',
  '': 'the next slower speed that was asked about',
};

/** What a forecast rests on, in a sentence; undefined where nothing is said of it. */
export const basisOf = ({ bandwidth, bandwidthBasis = '' }: PlannedTarget): string | undefined =>
  bandwidth === undefined ? undefined : `With ${rate(bandwidth)} (${bases[bandwidthBasis] ?? bandwidthBasis})`;

/** A plan with what was foretold for its nodes, which is asked more rarely: a machine is looked at for it. */
export const withForecasts = (plan: Plan, foretold: Plan | undefined): Plan => {
  const known = new Map(foretold?.nodes?.map((node) => [node.name, node]));
  const nodes = (plan.nodes ?? []).map((node) => {
    const { bandwidth, bandwidthBasis, forecasts, forecastReason } = known.get(node.name) ?? {};
    return {
      ...node,
      ...(bandwidth === undefined ? {} : { bandwidth }),
      ...(bandwidthBasis === undefined ? {} : { bandwidthBasis }),
      ...(forecasts === undefined ? {} : { forecasts }),
      ...(forecastReason === undefined ? {} : { forecastReason }),
    };
  });
  return { ...plan, nodes };
};

/** The forecast that would come true: of the means that would be taken. */
export const chosenOf = (target: PlannedTarget | undefined): Forecast | undefined => target?.forecasts?.find(({ chosen }) => chosen);

/** How long it would take. What does not end says so. */
export const timeText = ({ ends = false, totalMs }: Forecast): string => (!ends ? 'It does not end' : totalMs === undefined ? '–' : span(totalMs));

export const downtimeText = ({ ends = false, downtimeMs }: Forecast): string => (!ends || downtimeMs === undefined ? '–' : span(downtimeMs));

/** The longest deadline, in seconds: 7 days. */
const LONGEST = 604_800;

/** What is wrong with a deadline as it was typed. Empty is none: the policy's holds. */
export const wrongDeadline = (typed: string): string | undefined =>
  typed === '' || (/^\d{1,6}$/.test(typed) && Number(typed) <= LONGEST) ? undefined : `A whole number from 0 to ${LONGEST} (7 days).`;
