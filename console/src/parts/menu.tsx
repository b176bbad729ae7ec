import { Dropdown, DropdownItem, DropdownList, MenuToggle } from '@patternfly/react-core';
import EllipsisVIcon from '@patternfly/react-icons/dist/esm/icons/ellipsis-v-icon';
import { useState } from 'react';

export interface Item {
  name: string;
  /** Why it cannot be done now; undefined if it can. It is said beside the name, not hidden in a tooltip. */
  whyNot?: string | undefined;
  /** What it does, where the name does not say it. */
  hint?: string;
  isDanger?: boolean;
  onChoose: () => void;
}

/** Things that can be done. One that cannot be done now says why. */
export const Menu = ({ label, items, isKebab = false }: { label: string; items: Item[]; isKebab?: boolean }) => {
  const [isOpen, setOpen] = useState(false);
  return (
    <Dropdown
      isOpen={isOpen}
      onOpenChange={setOpen}
      onSelect={() => setOpen(false)}
      popperProps={{ position: 'end' }}
      toggle={(ref) =>
        isKebab ? (
          <MenuToggle ref={ref} variant="plain" aria-label={label} isExpanded={isOpen} onClick={() => setOpen(!isOpen)} icon={<EllipsisVIcon />} />
        ) : (
          <MenuToggle ref={ref} isExpanded={isOpen} onClick={() => setOpen(!isOpen)}>
            {label}
          </MenuToggle>
        )
      }
    >
      <DropdownList>
        {items.map(({ name, whyNot, hint, isDanger, onChoose }) => (
          <DropdownItem key={name} isAriaDisabled={whyNot !== undefined} isDanger={isDanger === true} description={whyNot ?? hint} onClick={whyNot === undefined ? onChoose : undefined}>
            {name}
          </DropdownItem>
        ))}
      </DropdownList>
    </Dropdown>
  );
};
