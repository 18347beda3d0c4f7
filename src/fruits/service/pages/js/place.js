// Where the service is: at the root of its host, or below a path that a proxy gives it.

/** The address of the first page; this script lies two folders below it. */
export const ROOT = new URL("../../", import.meta.url).pathname;

/** Return an address of the service as this page reaches it; one that says the whole way stays as it is. */
export const at = (address) => (address.startsWith(ROOT) ? address : ROOT + address.replace(/^\//, ""));
