/* Keeps the example of a body in step with the form; without it there is a button.
 *
 * url    - gives the example for the form's fields
 * target - id of the element that shows it
 */
this.ckan.module("webhooks-example", function ($) {
  "use strict";
  return {
    initialize: function () {
      this.el.on("change", this._show.bind(this));
    },

    _show: function () {
      var target = document.getElementById(this.options.target);
      var form = new FormData(this.el[0]);
      form.delete("headers"); // a credential, which an example has no use for
      fetch(this.options.url, { method: "POST", body: form, credentials: "same-origin" })
        .then(function (answer) { return answer.ok ? answer.text() : Promise.reject(); })
        .then(function (text) { target.textContent = text; })
        .catch(function () {}); // the old one stays
    },
  };
});
