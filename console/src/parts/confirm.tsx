import type { ReactNode } from 'react';
import { Dialog } from './dialog';

interface Props {
  title: string;
  /** The verb on the button. */
  verb: string;
  isDanger?: boolean;
  /** What it does. */
  children: ReactNode;
  onConfirm: () => Promise<boolean>;
  onClose: () => void;
}

/** A second yes before something that cannot be undone, which says what it does. */
export const Confirm = ({ isDanger = true, ...props }: Props) => <Dialog isDanger={isDanger} {...props} />;
