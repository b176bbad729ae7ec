import type { VirtualMachine } from '../api/objects';
import { quantity } from '../lib/units';
import { wrongName } from './machine';

/** What the form of a new machine holds, as it was typed. */
export interface MachineForm {
  name: string;
  namespace: string;
  cores: string;
  memory: string;
  arguments: string;
  labels: Record<string, string>;
}

export const emptyMachine: MachineForm = { name: '', namespace: 'default', cores: '1', memory: '512Mi', arguments: 'work=64M rate=50M', labels: {} };

const GRAIN = 2 * 2 ** 20;

/** What is wrong with it, by field. The server checks all of it again. */
export const wrongMachine = (form: MachineForm): Partial<Record<keyof MachineForm, string>> => {
  const errors: Partial<Record<keyof MachineForm, string>> = {};
  const name = wrongName(form.name);
  if (name) errors.name = name;
  if (!/^\d+$/.test(form.cores) || Number(form.cores) < 1 || Number(form.cores) > 64) errors.cores = 'A whole number from 1 to 64.';
  const memory = quantity(form.memory);
  if (memory === undefined) errors.memory = 'A number with a unit: Mi, Gi, Ti.';
  else if (memory < GRAIN || memory % GRAIN !== 0) errors.memory = 'A multiple of 2Mi.';
  return errors;
};

/** The machine that a form describes: the workload guest, which needs nothing to be downloaded. */
export const machineOf = (form: MachineForm): VirtualMachine => ({
  apiVersion: 'whimbrel.dev/v1',
  kind: 'VirtualMachine',
  metadata: { name: form.name, namespace: form.namespace },
  spec: {
    runStrategy: 'Always',
    template: {
      ...(Object.keys(form.labels).length > 0 ? { metadata: { labels: form.labels } } : {}),
      spec: {
        domain: {
          cpu: { cores: Number(form.cores) || 1 },
          memory: { guest: form.memory },
          firmware: { kernelBoot: { container: { image: 'whimbrel.dev/workload' }, ...(form.arguments ? { kernelArgs: form.arguments } : {}) } },
        },
      },
    },
  },
});
