// What every module of the page asks the document.
export const part = (id) => document.getElementById(id);
