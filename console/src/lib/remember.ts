import { useCallback, useState } from 'react';

/** A choice that is kept in this browser. What cannot be read back is the default. */
export const useRemembered = <T,>(name: string, start: T, isValid: (value: unknown) => value is T): [T, (value: T) => void] => {
  const key = `whimbrel.${name}`;
  const [value, set] = useState<T>(() => {
    try {
      const found: unknown = JSON.parse(localStorage.getItem(key) ?? 'null');
      return isValid(found) ? found : start;
    } catch {
      return start;
    }
  });
  const choose = useCallback(
    (next: T) => {
      set(next);
      try {
        localStorage.setItem(key, JSON.stringify(next));
      } catch {
        // A browser that keeps nothing.
      }
    },
    [key],
  );
  return [value, choose];
};
