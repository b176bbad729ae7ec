import { FormGroup, FormHelperText, HelperText, HelperTextItem } from '@patternfly/react-core';
import type { ReactNode } from 'react';

/** A field of a form: what it is for stands below it, and what is wrong with what was typed in its place. */
export const Field = ({ id, label, hint, error, children }: { id: string; label: string; hint: string; error?: string | undefined; children: ReactNode }) => (
  <FormGroup label={label} fieldId={id}>
    {children}
    <FormHelperText>
      <HelperText>
        <HelperTextItem variant={error ? 'error' : 'default'}>{error ?? hint}</HelperTextItem>
      </HelperText>
    </FormHelperText>
  </FormGroup>
);
