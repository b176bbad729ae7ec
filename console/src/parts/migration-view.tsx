import { Alert, Card, CardBody, CardTitle, List, ListItem, ProgressStep, ProgressStepper } from '@patternfly/react-core';
import { useFleet } from '../api/fleet';
import { type Migration, type Phase, phases } from '../api/objects';
import { bytes, rate, span } from '../lib/units';
import { notesOf, roundsOf, type Sample, wireRates } from '../model/history';
import { cancelOutcome, duration, isFinal, outcomeOf, phaseOf, stateOf, waitsFor } from '../model/migration';
import { Bar } from './bar';
import { Facts } from './facts';
import { MachineLink, PolicyLink } from './links';
import { Plot } from './plot';
import { ReportCard } from './report';
import { RoundTable } from './round-table';
import { useSamples } from './samples';
import { Time, useNow } from './time';
import { ValuesTable } from './values';

const steps: readonly Phase[] = phases.filter((phase) => phase !== 'Failed');

/** Which phases it has been through, where it is, and where it ended. */
const Stepper = ({ migration }: { migration: Migration }) => {
  const phase = phaseOf(migration);
  const times = new Map(migration.status?.phaseTransitionTimestamps?.map((one) => [one.phase, one.phaseTransitionTimestamp]));
  // A migration that failed has stopped in the last phase that it came to.
  const reached = steps.filter((step) => times.has(step) || step === phase).at(-1) ?? 'Pending';
  return (
    <ProgressStepper aria-label="Phases" isCompact={false}>
      {steps.map((step) => {
        const isPast = steps.indexOf(step) < steps.indexOf(reached) || phase === 'Succeeded';
        const isHere = step === reached && !isPast;
        const variant = isPast ? 'success' : !isHere ? 'pending' : phase === 'Failed' ? 'danger' : 'info';
        return (
          <ProgressStep key={step} id={step} titleId={`${step}-title`} variant={variant} isCurrent={isHere} aria-label={`${step}: ${variant}`} description={times.has(step) ? <Time at={times.get(step)} /> : undefined}>
            {step}
          </ProgressStep>
        );
      })}
    </ProgressStepper>
  );
};

/** What there is to say: how it ended, why it waits, or what the engine is at. */
const Verdict = ({ migration }: { migration: Migration }) => {
  const state = stateOf(migration);
  const cancelled = cancelOutcome(migration);
  const outcome = outcomeOf(migration);
  if (outcome === 'Succeeded') {
    const down = state.result?.downtime?.totalMs;
    return (
      <Alert component="h2" isInline variant="success" title={`${migration.spec?.vmiName ?? ''} runs on ${state.targetNode ?? ''} now`}>
        {cancelled && <p>{cancelled}</p>}
        {down !== undefined && <p>The guest stood still for {span(down)}.</p>}
      </Alert>
    );
  }
  if (outcome === 'Failed' || outcome === 'Cancelled') {
    return (
      <Alert component="h2" isInline variant={outcome === 'Failed' ? 'danger' : 'warning'} title={outcome === 'Failed' ? `It failed: ${state.failure?.reason ?? 'the reason is not known'}` : (cancelled ?? 'It was cancelled')}>
        <p className="words">{state.failureReason}</p>
        {state.failure?.advice && <p className="words">{state.failure.advice}</p>}
      </Alert>
    );
  }
  const why = waitsFor(migration);
  if (cancelled) return <Alert component="h2" isInline variant="warning" title={cancelled} />;
  if (!why) return null;
  return (
    <Alert component="h2" isInline variant="info" title="It waits">
      <span className="words">{why}</span>
    </Alert>
  );
};

const Now = ({ migration }: { migration: Migration }) => {
  const { rateOf } = useFleet();
  const now = useNow();
  const state = stateOf(migration);
  const { progress = {}, result, migrationConfiguration: values } = state;
  const length = duration(migration, now);
  const isOver = isFinal(phaseOf(migration));
  const sent = result?.transferredBytes ?? progress.transferredBytes;
  const foretold = progress.predictedDowntimeMs === undefined ? undefined : `${span(progress.predictedDowntimeMs)} (limit: ${span(values?.maxDowntimeMs ?? 300)})`;
  return (
    <Card>
      <CardTitle component="h2">{isOver ? 'What it took' : 'Now'}</CardTitle>
      <CardBody>
        <Bar migration={migration} />
        <Facts
          columns={3}
          facts={[
            ['Duration', length === undefined ? undefined : span(length)],
            ['Sent', sent === undefined ? undefined : bytes(sent)],
            ...(isOver
              ? ([
                  ['Rounds', result?.rounds === undefined ? undefined : String(result.rounds)],
                  ['Downtime', result?.downtime ? span(result.downtime.totalMs) : undefined],
                  ['Mode', state.mode],
                  ['Session, as in reports', result?.session],
                ] as [string, string | undefined][])
              : ([
                  ['Round', phaseOf(migration) === 'Running' ? String((progress.round ?? 0) + 1) : undefined],
                  ['Remaining', progress.remainingBytes === undefined ? undefined : bytes(progress.remainingBytes)],
                  ['On the wire', rate(rateOf(migration))],
                  ['Dirtied by the guest', progress.round ? rate(progress.dirtyRate ?? 0) : 'Known after the first round'],
                  ['Over in about', progress.etaMs === undefined ? 'Not known' : span(progress.etaMs)],
                  ['Foretold downtime', foretold],
                  ['Taken from vCPUs', progress.throttlePercent ? `${progress.throttlePercent} % of their time` : 'Nothing'],
                ] as [string, string | undefined][])),
          ]}
        />
      </CardBody>
    </Card>
  );
};

const Where = ({ migration }: { migration: Migration }) => {
  const state = stateOf(migration);
  return (
    <Card>
      <CardTitle component="h2">General</CardTitle>
      <CardBody>
        <Facts
          facts={[
            ['VirtualMachine', <MachineLink key="machine" namespace={migration.metadata.namespace} name={migration.spec?.vmiName ?? ''} />],
            ['Namespace', migration.metadata.namespace],
            ['Priority', migration.spec?.priority],
            ['Source', state.sourceNode],
            ['Target', state.targetNode],
            ['Source VMM', state.sourceVmm],
            ['Target VMM', state.targetVmm],
            ['Created', <Time key="created" at={migration.metadata.creationTimestamp} />],
            ['MigrationPolicy', <span key="policy"><PolicyLink name={state.migrationPolicyName} />{state.migrationPolicyReason ? ` (${state.migrationPolicyReason})` : ''}</span>],
          ]}
        />
        {state.migrationConfiguration && <ValuesTable values={state.migrationConfiguration} origins={state.migrationConfigurationOrigins} />}
      </CardBody>
    </Card>
  );
};

const Downtime = ({ migration }: { migration: Migration }) => {
  const parts = Object.entries(stateOf(migration).result?.downtime?.phasesMs ?? {});
  if (parts.length === 0) return null;
  return (
    <Card>
      <CardTitle component="h2">What the guest stood still for</CardTitle>
      <CardBody>
        <Facts columns={3} facts={parts.map(([name, value]) => [name, <span key={name} className="numeric">{span(value)}</span>])} />
      </CardBody>
    </Card>
  );
};

const Course = ({ samples }: { samples: readonly Sample[] }) => {
  const line = (name: string, value: (sample: Sample) => number | undefined) => ({
    name,
    points: samples.map((sample) => ({ at: sample.at, value: value(sample) ?? 0 })),
  });
  const notes = notesOf(samples);
  return (
    <Card>
      <CardTitle component="h2">Course, as seen since this page was opened</CardTitle>
      <CardBody>
        {samples.length > 1 && (
          <>
            <Plot title="Remaining" series={[line('Remaining', ({ progress }) => progress.remainingBytes)]} unit={bytes} />
            <Plot title="Rates" series={[{ name: 'On the wire', points: wireRates(samples) }, line('Dirtied', ({ progress }) => progress.dirtyRate)]} unit={rate} />
          </>
        )}
        {notes.length > 0 && (
          <List aria-label="What was said">
            {notes.map(({ key, text }) => (
              <ListItem key={key} className="words">
                {text}
              </ListItem>
            ))}
          </List>
        )}
        <RoundTable label="Rounds" rounds={roundsOf(samples).map((round) => ({ ...round, key: round.round, name: String(round.round) }))} unknown="under way" />
      </CardBody>
    </Card>
  );
};

/** A migration: live while it goes on, and its record afterwards. */
export const MigrationView = ({ migration }: { migration: Migration }) => {
  const samples = useSamples(migration);
  return (
    <>
      <Verdict migration={migration} />
      <Card>
        <CardBody className="scroll" tabIndex={0} role="region" aria-label="Phases of the migration">
          <Stepper migration={migration} />
        </CardBody>
      </Card>
      <Now migration={migration} />
      <Downtime migration={migration} />
      {isFinal(phaseOf(migration)) && <ReportCard migration={migration} />}
      {samples.length > 0 && <Course samples={samples} />}
      <Where migration={migration} />
    </>
  );
};
