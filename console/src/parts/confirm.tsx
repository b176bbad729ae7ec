import { Button, Modal, ModalBody, ModalFooter, ModalHeader } from '@patternfly/react-core';
import { type ReactNode, useState } from 'react';

interface Props {
  title: string;
  /** The verb on the button. */
  verb: string;
  isDanger?: boolean;
  /** What it does. */
  children: ReactNode;
  onConfirm: () => Promise<unknown>;
  onClose: () => void;
}

/** A second yes before something that cannot be undone, which says what it does. */
export const Confirm = ({ title, verb, isDanger = true, children, onConfirm, onClose }: Props) => {
  const [isBusy, setBusy] = useState(false);
  const confirm = async () => {
    setBusy(true);
    await onConfirm();
    onClose();
  };
  return (
    <Modal isOpen variant="small" onClose={onClose} aria-labelledby="confirm-title" aria-describedby="confirm-body">
      <ModalHeader title={title} labelId="confirm-title" {...(isDanger ? { titleIconVariant: 'warning' as const } : {})} />
      <ModalBody id="confirm-body">{children}</ModalBody>
      <ModalFooter>
        <Button variant={isDanger ? 'danger' : 'primary'} isLoading={isBusy} isDisabled={isBusy} onClick={() => void confirm()}>
          {verb}
        </Button>
        <Button variant="link" onClick={onClose}>
          Cancel
        </Button>
      </ModalFooter>
    </Modal>
  );
};
