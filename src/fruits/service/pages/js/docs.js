// The page /docs: Swagger UI on the document of this service. Nothing is asked of any other host.

import { at } from "./place.js";

globalThis.SwaggerUIBundle({
  url: at("/openapi.json"),
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null, // it would send the document elsewhere
  queryConfigEnabled: false,
});
