import {
  Button,
  Masthead,
  MastheadBrand,
  MastheadContent,
  MastheadLogo,
  MastheadMain,
  MastheadToggle,
  Nav,
  NavItem,
  NavList,
  Page,
  PageSidebar,
  PageSidebarBody,
  PageToggleButton,
  SkipToContent,
  Toolbar,
  ToolbarContent,
  ToolbarGroup,
  ToolbarItem,
} from '@patternfly/react-core';
import BarsIcon from '@patternfly/react-icons/dist/esm/icons/bars-icon';
import MoonIcon from '@patternfly/react-icons/dist/esm/icons/moon-icon';
import SignOutAltIcon from '@patternfly/react-icons/dist/esm/icons/sign-out-alt-icon';
import SunIcon from '@patternfly/react-icons/dist/esm/icons/sun-icon';
import { useState } from 'react';
import { Link, Navigate, Route, Routes, useLocation } from 'react-router';
import { useFleet } from './api/fleet';
import { chooseTheme, currentTheme } from './lib/theme';
import { DrainPage } from './pages/drain';
import { MachinePage } from './pages/machine';
import { MachineCreatePage } from './pages/machine-create';
import { MachinesPage } from './pages/machines';
import { MigrationPage } from './pages/migration';
import { MigrationsPage } from './pages/migrations';
import { NodePage } from './pages/node';
import { NodesPage } from './pages/nodes';
import { OverviewPage } from './pages/overview';
import { PoliciesPage } from './pages/policies';
import { PolicyPage } from './pages/policy';
import { PolicyFormPage } from './pages/policy-form';
import { ConnectionAlert } from './parts/connection';
import { TellProvider } from './parts/tell';

const views: [string, string][] = [
  ['/overview', 'Overview'],
  ['/machines', 'VirtualMachines'],
  ['/migrations', 'Migrations'],
  ['/policies', 'MigrationPolicies'],
  ['/nodes', 'Nodes'],
];

const ThemeButton = () => {
  const [theme, setTheme] = useState(currentTheme);
  const other = theme === 'dark' ? 'light' : 'dark';
  const change = () => {
    chooseTheme(other);
    setTheme(other);
  };
  return <Button variant="plain" aria-label={`Use the ${other} theme`} icon={theme === 'dark' ? <SunIcon /> : <MoonIcon />} onClick={change} />;
};

const Head = ({ onLeave }: { onLeave: () => void }) => {
  const { user } = useFleet();
  return (
    <Masthead>
      <MastheadMain>
        <MastheadToggle>
          <PageToggleButton variant="plain" aria-label="Navigation" icon={<BarsIcon />} />
        </MastheadToggle>
        <MastheadBrand>
          <MastheadLogo component={(props) => <Link {...props} to="/overview" />}>Whimbrel</MastheadLogo>
        </MastheadBrand>
      </MastheadMain>
      <MastheadContent>
        <Toolbar isStatic>
          <ToolbarContent>
            <ToolbarGroup align={{ default: 'alignEnd' }}>
              <ToolbarItem className="user">{user}</ToolbarItem>
              <ToolbarItem>
                <ThemeButton />
              </ToolbarItem>
              <ToolbarItem>
                <Button variant="plain" aria-label="Log out" icon={<SignOutAltIcon />} onClick={onLeave} />
              </ToolbarItem>
            </ToolbarGroup>
          </ToolbarContent>
        </Toolbar>
      </MastheadContent>
    </Masthead>
  );
};

const Sidebar = () => {
  const { pathname } = useLocation();
  return (
    <PageSidebar>
      <PageSidebarBody>
        <Nav aria-label="Views">
          <NavList>
            {views.map(([path, name]) => (
              <NavItem key={path} isActive={pathname.startsWith(path) || (path === '/nodes' && pathname.startsWith('/drains'))}>
                <Link to={path}>{name}</Link>
              </NavItem>
            ))}
          </NavList>
        </Nav>
      </PageSidebarBody>
    </PageSidebar>
  );
};

/** Head, navigation and the view of the address. */
export const Shell = ({ onLeave }: { onLeave: () => void }) => (
  <Page
    masthead={<Head onLeave={onLeave} />}
    sidebar={<Sidebar />}
    isManagedSidebar
    mainContainerId="main"
    skipToContent={<SkipToContent href="#main">Skip to content</SkipToContent>}
  >
    <TellProvider>
      <ConnectionAlert />
      <Routes>
        <Route path="/overview" element={<OverviewPage />} />
        <Route path="/machines" element={<MachinesPage />} />
        <Route path="/machines/~new" element={<MachineCreatePage />} />
        <Route path="/machines/:namespace/:name/:tab?" element={<MachinePage />} />
        <Route path="/migrations" element={<MigrationsPage />} />
        <Route path="/migrations/:namespace/:name" element={<MigrationPage />} />
        <Route path="/policies" element={<PoliciesPage />} />
        <Route path="/policies/~new" element={<PolicyFormPage />} />
        <Route path="/policies/:name" element={<PolicyPage />} />
        <Route path="/policies/:name/edit" element={<PolicyFormPage />} />
        <Route path="/nodes" element={<NodesPage />} />
        <Route path="/nodes/:name" element={<NodePage />} />
        <Route path="/drains/:name" element={<DrainPage />} />
        <Route path="*" element={<Navigate to="/overview" replace />} />
      </Routes>
    </TellProvider>
  </Page>
);
