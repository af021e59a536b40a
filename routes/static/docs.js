// Not in the page itself: the Content-Security-Policy allows no inline scripts.
SwaggerUIBundle({
  url: document.getElementById("api").dataset.document,
  dom_id: "#api",
  deepLinking: true,
  validatorUrl: null,
});
