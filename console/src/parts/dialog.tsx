import { Alert, Button, Modal, ModalBody, ModalFooter, ModalHeader } from '@patternfly/react-core';
import { type ReactNode, useId, useState } from 'react';

interface Props {
  title: string;
  description?: string;
  /** The verb on the button. */
  verb: string;
  variant?: 'small' | 'large';
  /** What cannot be undone is red; what ends something is warned of. */
  isDanger?: boolean;
  isWarning?: boolean;
  isDisabled?: boolean;
  problem?: string | undefined;
  children: ReactNode;
  /** Does it. Returns whether it was done: otherwise the dialog stays, with what was typed. */
  onConfirm: () => Promise<boolean>;
  onClose: () => void;
}

/** Something that is asked before it is done. While it is being done it cannot be done again. */
export const Dialog = ({ title, description, verb, variant = 'small', isDanger = false, isWarning = isDanger, isDisabled = false, problem, children, onConfirm, onClose }: Props) => {
  const id = useId();
  const [isBusy, setBusy] = useState(false);
  const confirm = async () => {
    setBusy(true);
    const isDone = await onConfirm();
    setBusy(false);
    if (isDone) onClose();
  };
  return (
    <Modal isOpen variant={variant} onClose={onClose} aria-labelledby={`${id}-title`} aria-describedby={`${id}-body`}>
      <ModalHeader title={title} labelId={`${id}-title`} description={description} {...(isWarning ? { titleIconVariant: 'warning' as const } : {})} />
      <ModalBody id={`${id}-body`}>
        {problem && <Alert component="h2" isInline variant="danger" title={problem} />}
        {children}
      </ModalBody>
      <ModalFooter>
        <Button variant={isDanger ? 'danger' : 'primary'} isLoading={isBusy} isDisabled={isBusy || isDisabled} onClick={() => void confirm()}>
          {verb}
        </Button>
        <Button variant="link" onClick={onClose}>
          {isBusy ? 'Close' : 'Cancel'}
        </Button>
      </ModalFooter>
    </Modal>
  );
};
