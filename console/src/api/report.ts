/** The engine's report of a migration, as far as it is shown (docs/report.schema.json). Times are in milliseconds, rates in bytes each second. */
export interface Report {
  outcome?: string;
  reason?: string;
  'duration-ms'?: number;
  'cpu-seconds'?: number;
  'rounds-left-out'?: number;
  rounds?: {
    round: number;
    last?: boolean;
    'duration-ms'?: number;
    bytes?: number;
    'remaining-bytes'?: number;
    'dirty-rate'?: number;
    'wire-rate'?: number;
    'predicted-downtime-ms'?: number;
  }[];
  decisions?: { 'at-ms': number; text: string }[];
  downtime?: { 'total-ms'?: number; 'predicted-ms'?: number };
  stalls?: { measure?: string; total?: { faults?: number; 'kernel-ms'?: number; 'waiting-for-cpu-ms'?: number } };
  security?: { encrypted?: boolean; exposure?: string };
  integrity?: { level?: string; equal?: boolean };
}
