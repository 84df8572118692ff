/* A button that copies what an element says.
 *
 * target - id of the element
 * done   - what the button says afterwards
 */
this.ckan.module("webhooks-copy", function ($) {
  "use strict";
  return {
    initialize: function () {
      this.el.prop("hidden", false).on("click", this._copy.bind(this));
    },

    _copy: function () {
      var element = document.getElementById(this.options.target);
      // Only on https and localhost there is a clipboard; elsewhere what is selected is copied.
      if (navigator.clipboard) {
        navigator.clipboard.writeText(element.textContent);
      } else {
        window.getSelection().selectAllChildren(element);
        document.execCommand("copy");
      }
      this.el.text(this.options.done);
    },
  };
});
