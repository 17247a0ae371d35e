(function () {
  var code = document.getElementById("address");
  var button = document.getElementById("copy");
  // Nobody configured the address: it was taken from the Host header, and behind a proxy only the browser knows the scheme.
  if (code.hasAttribute("data-derived") && location.protocol === "https:") {
    code.textContent = code.textContent.replace(/^ws:/, "wss:");
  }
  function say(text) {
    button.textContent = text;
    setTimeout(function () { button.textContent = "Copy"; }, 2000);
  }
  function select() {
    getSelection().selectAllChildren(code);
    say(document.execCommand("copy") ? "Copied" : "Selected");
  }
  button.hidden = false;
  button.addEventListener("click", function () {
    if (!navigator.clipboard) { select(); return; }
    navigator.clipboard.writeText(code.textContent).then(function () { say("Copied"); }, select);
  });
})();
