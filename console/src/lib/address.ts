import { useCallback } from 'react';
import { useSearchParams } from 'react-router';

/** A text that is kept in the address, so that a view can be sent to somebody, and is as it was when one comes back to it. */
export const useAddressText = (name: string): [string, (text: string) => void] => {
  const [parameters, set] = useSearchParams();
  const change = useCallback(
    (text: string) =>
      set(
        (old) => {
          const next = new URLSearchParams(old);
          if (text) next.set(name, text);
          else next.delete(name);
          return next;
        },
        // Each key would be a step back otherwise.
        { replace: true },
      ),
    [set, name],
  );
  return [parameters.get(name) ?? '', change];
};
