import { DescriptionList, DescriptionListDescription, DescriptionListGroup, DescriptionListTerm } from '@patternfly/react-core';
import type { ReactNode } from 'react';

/** Names and what they are; one that has nothing to say says '–'. */
export const Facts = ({ facts, columns = 2 }: { facts: [string, ReactNode][]; columns?: 1 | 2 | 3 }) => (
  <DescriptionList columnModifier={{ default: '1Col', lg: `${columns}Col` }} isCompact>
    {facts.map(([name, value]) => (
      <DescriptionListGroup key={name}>
        <DescriptionListTerm>{name}</DescriptionListTerm>
        <DescriptionListDescription className="words">{value === undefined || value === null || value === '' ? '–' : value}</DescriptionListDescription>
      </DescriptionListGroup>
    ))}
  </DescriptionList>
);
