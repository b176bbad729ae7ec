import { FormGroup, FormHelperText, HelperText, HelperTextItem, InputGroup, InputGroupItem, Button, Label, LabelGroup, TextInput } from '@patternfly/react-core';
import { useState } from 'react';
import { parseLabel } from '../model/policy';

interface Props {
  id: string;
  label: string;
  hint: string;
  labels: Record<string, string>;
  onChange: (labels: Record<string, string>) => void;
}

/** Labels as chips. What is no label is said, and not silently dropped. */
export const LabelInput = ({ id, label, hint, labels, onChange }: Props) => {
  const [typed, setTyped] = useState('');
  const [error, setError] = useState<string>();
  const add = () => {
    const parsed = parseLabel(typed);
    if ('error' in parsed) return setError(parsed.error);
    onChange({ ...labels, [parsed.name]: parsed.value });
    setTyped('');
    setError(undefined);
  };
  const remove = (name: string) => onChange(Object.fromEntries(Object.entries(labels).filter(([other]) => other !== name)));
  return (
    <FormGroup label={label} fieldId={id}>
      <InputGroup>
        <InputGroupItem isFill>
          <TextInput
            id={id}
            value={typed}
            placeholder="key=value"
            validated={error ? 'error' : 'default'}
            onChange={(_, value) => setTyped(value)}
            onKeyDown={(event) => {
              if (event.key !== 'Enter') return;
              event.preventDefault();
              add();
            }}
          />
        </InputGroupItem>
        <InputGroupItem>
          <Button variant="control" isDisabled={!typed.trim()} onClick={add} aria-label={`Add to ${label}`}>
            Add
          </Button>
        </InputGroupItem>
      </InputGroup>
      <FormHelperText>
        <HelperText>
          <HelperTextItem variant={error ? 'error' : 'default'}>{error ?? hint}</HelperTextItem>
        </HelperText>
      </FormHelperText>
      {Object.keys(labels).length > 0 && (
        <LabelGroup numLabels={20} aria-label={label}>
          {Object.entries(labels).map(([name, value]) => (
            <Label key={name} onClose={() => remove(name)} closeBtnAriaLabel={`Remove ${name}`}>
              {name}={value}
            </Label>
          ))}
        </LabelGroup>
      )}
    </FormGroup>
  );
};
