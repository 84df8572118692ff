/* Gives the fields that CKAN's autocompletion puts in place of ours the names of ours, and
 * what takes a value away again the name of the value.
 */
this.ckan.module("webhooks-named", function ($) {
  "use strict";
  var FIELDS = ".select2-selection, .select2-search__field, .select2-input, .select2-focusser";
  return {
    initialize: function () {
      this.el.on("change", this._name.bind(this));
      // Those within are made after this.
      setTimeout(this._name.bind(this));
    },

    _name: function () {
      this.el.find("label").each(function () {
        var label = this.textContent.trim();
        $(this).parent().find(FIELDS).removeAttr("aria-labelledby").attr("aria-label", label);
      });
      this.el.find(".select2-search-choice-close").each(function () {
        this.setAttribute("aria-label", this.parentNode.textContent.trim());
      });
    },
  };
});
