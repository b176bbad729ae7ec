import { Drawer, DrawerActions, DrawerCloseButton, DrawerContent, DrawerContentBody, DrawerHead, DrawerPanelBody, DrawerPanelContent, Flex, Title } from '@patternfly/react-core';
import type { ReactNode } from 'react';
import type { Migration } from '../api/objects';
import { CancelMigration } from './cancel-migration';
import { PhaseLabel } from './labels';
import { MigrationLink } from './links';
import { MigrationView } from './migration-view';

/** A migration live beside something else: its machine, which stays in sight. */
export const MigrationDrawer = ({ migration, onClose, children }: { migration: Migration | undefined; onClose: () => void; children: ReactNode }) => (
  <Drawer isExpanded={migration !== undefined} isInline>
    <DrawerContent
      panelContent={
        migration && (
          <DrawerPanelContent defaultSize="50%" aria-label="Live view of the migration">
            <DrawerHead>
              <Title headingLevel="h2">
                <MigrationLink migration={migration} /> <PhaseLabel migration={migration} />
              </Title>
              <Flex>
                <CancelMigration migration={migration} />
              </Flex>
              <DrawerActions>
                <DrawerCloseButton aria-label="Close the live view" onClick={onClose} />
              </DrawerActions>
            </DrawerHead>
            <DrawerPanelBody className="drawer">
              <MigrationView key={migration.metadata.uid} migration={migration} />
            </DrawerPanelBody>
          </DrawerPanelContent>
        )
      }
    >
      <DrawerContentBody>{children}</DrawerContentBody>
    </DrawerContent>
  </Drawer>
);
