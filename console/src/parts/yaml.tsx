import { ActionGroup, Alert, Button, Form, TextArea } from '@patternfly/react-core';
import { useState } from 'react';
import { stringify } from 'yaml';
import { useFleet } from '../api/fleet';
import type { KubeObject } from '../api/objects';
import type { Resource } from '../api/resources';
import { changedOf } from '../model/yaml';
import { useTell } from './tell';

/** An object as YAML, as `kubectl edit` shows it. While somebody types, changes from elsewhere do not overwrite it; they are said. */
export const YamlEditor = ({ resource, object, mayEdit }: { resource: Resource<KubeObject>; object: KubeObject; mayEdit: boolean }) => {
  const fleet = useFleet();
  const { attempt } = useTell();
  const [typed, setTyped] = useState<{ text: string; version: string | undefined }>();
  const live = stringify(object, { lineWidth: 0 });
  const isOld = typed !== undefined && typed.version !== object.metadata.resourceVersion;
  const save = () =>
    attempt(`${object.metadata.name} was saved`, `${object.metadata.name} was not saved`, async () => {
      await fleet.replace(resource, changedOf(typed?.text ?? '', object));
      setTyped(undefined);
    });
  return (
    <Form className="yaml" onSubmit={(event) => event.preventDefault()}>
      {isOld && (
        <Alert component="h2" isInline variant="info" title="It has changed meanwhile">
          What you typed is still here. Saving is refused as long as it is about the older version: reload, and type it again.
        </Alert>
      )}
      <TextArea
        aria-label={`YAML of ${object.metadata.name}`}
        resizeOrientation="vertical"
        spellCheck={false}
        readOnlyVariant={mayEdit ? undefined : 'default'}
        value={typed?.text ?? live}
        onChange={(_, text) => setTyped({ text, version: typed ? typed.version : object.metadata.resourceVersion })}
      />
      {mayEdit && (
        <ActionGroup>
          <Button isDisabled={!typed} onClick={() => void save()}>
            Save
          </Button>
          <Button variant="link" isDisabled={!typed} onClick={() => setTyped(undefined)}>
            Reload
          </Button>
        </ActionGroup>
      )}
    </Form>
  );
};
