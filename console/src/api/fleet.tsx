import { createContext, use, useCallback, useMemo, useSyncExternalStore } from 'react';
import { keyOf } from './changes';
import { type Copy, type Login, Mirror } from './mirror';
import { Meter } from '../model/meter';
import type { KubeObject, Migration } from './objects';
import { ApiError, request, send } from './request';
import { apiVersion, migrations, pathOf, type Resource } from './resources';

/** What the person who is logged in may do. What one may not do is not offered. */
export interface Rights {
  operate: boolean;
  administer: boolean;
}

/** The fleet as one logged-in browser sees it. */
export class Fleet {
  private readonly mirrors = new Map<string, Mirror<KubeObject>>();
  /** Milliseconds that the server's clock is ahead of the browser's. */
  private ahead = 0;
  readonly login: Login;
  private readonly meter = new Meter();

  constructor(
    token: string,
    expired: () => void,
    readonly user: string,
    readonly rights: Rights,
  ) {
    this.login = { token, expired, clock: (now) => (this.ahead = now - Date.now()) };
    const copies = this.mirror(migrations);
    // The first to hear of a change: views that are drawn after it find the rate that goes with it.
    copies.subscribe(() => this.meter.see(copies.snapshot().objects.values(), this.now()));
  }

  /** The server's time, in milliseconds. */
  readonly now = (): number => Date.now() + this.ahead;

  /** Bytes each second that a migration sends. */
  readonly rateOf = (migration: Migration): number => this.meter.rateOf(migration, this.now());

  /** The copy of a kind, begun when it is first asked for. */
  mirror<T extends KubeObject>(resource: Resource<T>): Mirror<T> {
    const found = this.mirrors.get(resource.plural);
    if (found) return found as unknown as Mirror<T>;
    const mirror = new Mirror<T>(resource, this.login);
    this.mirrors.set(resource.plural, mirror as unknown as Mirror<KubeObject>);
    return mirror;
  }

  stop(): void {
    for (const mirror of this.mirrors.values()) mirror.stop();
    this.mirrors.clear();
  }

  private write<T>(method: string, path: string, body?: unknown, contentType?: string): Promise<T> {
    const options = contentType === undefined ? { token: this.login.token, body } : { token: this.login.token, body, contentType };
    return request<T>(method, path, options).catch(this.refused);
  }

  /** A watch that goes on does not see that the login has ended; whoever clicks does, and whoever is refused a console. */
  private readonly refused = (error: unknown): never => {
    if (error instanceof ApiError && error.code === 401) this.login.expired();
    throw error;
  };

  create<T extends KubeObject>(resource: Resource<T>, object: object, namespace?: string, dryRun = false): Promise<T> {
    const query = `?fieldManager=console&fieldValidation=Strict${dryRun ? '&dryRun=All' : ''}`;
    const whole = { apiVersion: apiVersion(resource), kind: resource.kind, ...object };
    return this.write('POST', pathOf(resource, namespace) + query, whole);
  }

  /** Merges fields into an object, as `kubectl patch --type=merge` does. */
  patch<T extends KubeObject>(resource: Resource<T>, object: KubeObject, change: object): Promise<T> {
    const path = `${pathOf(resource, object.metadata.namespace, object.metadata.name)}?fieldManager=console`;
    return this.write('PATCH', path, change, 'application/merge-patch+json');
  }

  replace<T extends KubeObject>(resource: Resource<T>, object: KubeObject): Promise<T> {
    const query = '?fieldManager=console&fieldValidation=Strict';
    return this.write('PUT', pathOf(resource, object.metadata.namespace, object.metadata.name) + query, object);
  }

  /** What a node keeps of an object: a log as text, or a report. */
  kept(resource: Resource<KubeObject>, object: KubeObject, file: string, signal: AbortSignal): Promise<Response> {
    const path = `${pathOf(resource, object.metadata.namespace, object.metadata.name)}/${file}`;
    return send('GET', path, { token: this.login.token, signal }).catch(this.refused);
  }

  remove(resource: Resource<KubeObject>, object: KubeObject): Promise<unknown> {
    return this.write('DELETE', pathOf(resource, object.metadata.namespace, object.metadata.name));
  }
}

export const FleetContext = createContext<Fleet | undefined>(undefined);

export const useFleet = (): Fleet => {
  const fleet = use(FleetContext);
  if (!fleet) throw new Error('Nobody is logged in');
  return fleet;
};

/** All objects of a kind, live. */
export const useCopy = <T extends KubeObject>(resource: Resource<T>): Copy<T> => {
  const mirror = useFleet().mirror(resource);
  return useSyncExternalStore(mirror.subscribe, mirror.snapshot);
};

/** All objects of a kind as a list, live. */
export const useAll = <T extends KubeObject>(resource: Resource<T>): T[] => {
  const { objects } = useCopy(resource);
  return useMemo(() => [...objects.values()], [objects]);
};

/** One object, live; undefined while it is not there. A view of it is drawn again only when it itself changes. */
export const useOne = <T extends KubeObject>(resource: Resource<T>, namespace: string, name: string): T | undefined => {
  const mirror = useFleet().mirror(resource);
  const key = keyOf({ metadata: { namespace, name } });
  return useSyncExternalStore(
    mirror.subscribe,
    useCallback(() => mirror.snapshot().objects.get(key), [mirror, key]),
  );
};

const may = async (token: string, verb: string, resource: Resource<KubeObject>): Promise<boolean> => {
  const attributes = { verb, group: resource.group, resource: resource.plural };
  const body = {
    apiVersion: 'authorization.k8s.io/v1',
    kind: 'SelfSubjectAccessReview',
    spec: { resourceAttributes: attributes },
  };
  const path = '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews';
  const review = await request<{ status?: { allowed?: boolean } }>('POST', path, { token, body });
  return review.status?.allowed === true;
};

/** What a token's owner may do, as `kubectl auth can-i` finds it out. */
export const rightsOf = async (token: string, machine: Resource<KubeObject>, policy: Resource<KubeObject>): Promise<Rights> => {
  const [operate, administer] = await Promise.all([may(token, 'patch', machine), may(token, 'create', policy)]);
  return { operate, administer };
};
