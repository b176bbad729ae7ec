/**
 * For a library that writes style sheets as elements and as attributes, which the policy of these pages forbids: the same rules by way of the
 * browser's objects, which it allows, since no text of a page can come by them.
 */

/** An element that a style sheet is written into, and that keeps it among those of the document. */
const sheetElement = (create: () => HTMLElement): HTMLElement => {
  const sheet = new CSSStyleSheet();
  const element = create();
  const leave = element.remove.bind(element);
  document.adoptedStyleSheets.push(sheet);
  Object.defineProperty(element, 'textContent', { set: (text: string) => sheet.replaceSync(text), get: () => '' });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    leave();
  };
  element.hidden = true;
  return element;
};

/** An element whose attribute `style` is set as its style. */
const styled = (element: HTMLElement): HTMLElement => {
  const set = element.setAttribute.bind(element);
  element.setAttribute = (name, value) => {
    if (name === 'style') element.style.cssText = value;
    else set(name, value);
  };
  return element;
};

const own = (name: string, create: (name: string) => HTMLElement): HTMLElement => (name === 'style' ? sheetElement(() => create('span')) : styled(create(name)));

/** This document, for whoever makes elements of it. */
export const strictDocument = (): Document => {
  const create = document.createElement.bind(document);
  return new Proxy(document, {
    get: (target, key) => {
      if (key === 'createElement') return (name: string) => own(name, create);
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === 'function' ? (value.bind(target) as unknown) : value;
    },
  });
};

/** Does something that makes elements of the document itself. */
export const withStrictStyle = (work: () => void): void => {
  const create = document.createElement.bind(document);
  document.createElement = ((name: string) => own(name, create as (name: string) => HTMLElement)) as typeof document.createElement;
  try {
    work();
  } finally {
    Reflect.deleteProperty(document, 'createElement');
  }
};
