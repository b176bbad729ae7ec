import { Button, Flex, FlexItem } from '@patternfly/react-core';
import { type Outcome, outcomes } from '../model/migration';
import { slices } from '../lib/slices';

interface Props {
  counts: Record<Outcome, number>;
  chosen: Outcome | undefined;
  onChoose: (outcome: Outcome | undefined) => void;
}

/** Migrations by status. An entry of the legend filters by it; chosen again it does not. */
export const Donut = ({ counts, chosen, onChoose }: Props) => {
  const total = outcomes.reduce((sum, outcome) => sum + counts[outcome], 0);
  const parts = slices(outcomes.map((outcome) => counts[outcome]));
  return (
    <Flex alignItems={{ default: 'alignItemsCenter' }}>
      <svg className="donut" viewBox="0 0 42 42" role="img" aria-label={`${total} migrations by status`}>
        <circle className="rest" cx="21" cy="21" r="15.9155" />
        {outcomes.map((outcome, index) => (
          <circle
            key={outcome}
            className={`slice colour-${outcome}`}
            cx="21"
            cy="21"
            r="15.9155"
            strokeDasharray={`${parts[index]?.length ?? 0} ${100 - (parts[index]?.length ?? 0)}`}
            strokeDashoffset={25 - (parts[index]?.begin ?? 0)}
          />
        ))}
        <text x="21" y="22">
          {total}
        </text>
        <text className="small" x="21" y="27">
          {total === 1 ? 'migration' : 'migrations'}
        </text>
      </svg>
      <FlexItem>
        {outcomes.map((outcome) => (
          <div key={outcome} className={`colour-${outcome}`}>
            <span className="dot" aria-hidden="true" />
            <Button variant="link" isInline aria-pressed={chosen === outcome} onClick={() => onChoose(chosen === outcome ? undefined : outcome)}>
              {counts[outcome]} {outcome}
              {chosen === outcome ? ' (shown alone)' : ''}
            </Button>
          </div>
        ))}
      </FlexItem>
    </Flex>
  );
};
