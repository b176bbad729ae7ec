/** Light or dark: what somebody chose here, or else what the system prefers. */
export type Theme = 'light' | 'dark';

const KEY = 'whimbrel.theme';
const DARK = 'pf-v6-theme-dark';

const show = (theme: Theme): void => {
  document.documentElement.classList.toggle(DARK, theme === 'dark');
};

const remembered = (): string | null => {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
};

export const currentTheme = (): Theme => (document.documentElement.classList.contains(DARK) ? 'dark' : 'light');

export const chooseTheme = (theme: Theme): void => {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // A browser that keeps nothing: it holds until the page is left.
  }
  show(theme);
};

export const startTheme = (): void => {
  const system = matchMedia('(prefers-color-scheme: dark)');
  const follow = () => show(remembered() === 'dark' || (remembered() === null && system.matches) ? 'dark' : 'light');
  system.addEventListener('change', follow);
  follow();
};
