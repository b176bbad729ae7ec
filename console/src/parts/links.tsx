import { Link } from 'react-router';
import type { KubeObject } from '../api/objects';

const part = encodeURIComponent;

export const machinePath = (namespace: string, name: string): string => `/machines/${part(namespace)}/${part(name)}`;
export const migrationPath = ({ metadata }: KubeObject): string => `/migrations/${part(metadata.namespace ?? '')}/${part(metadata.name)}`;
export const drainPath = (name: string): string => `/drains/${part(name)}`;

export const MachineLink = ({ namespace, name }: { namespace: string | undefined; name: string }) => <Link to={machinePath(namespace ?? '', name)}>{name}</Link>;
export const MigrationLink = ({ migration }: { migration: KubeObject }) => <Link to={migrationPath(migration)}>{migration.metadata.name}</Link>;
export const PolicyLink = ({ name }: { name: string | undefined }) => (name ? <Link to={`/policies/${part(name)}`}>{name}</Link> : <>No MigrationPolicy</>);
export const DrainLink = ({ name }: { name: string }) => <Link to={drainPath(name)}>{name}</Link>;
export const NodeLink = ({ name }: { name: string | undefined }) => (name ? <Link to={`/nodes/${part(name)}`}>{name}</Link> : <>–</>);
