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

  // The same drawing and the same words as those the page came with.
  function grouped(number) {
    return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
  }
  function bars(minutes) {
    var most = Math.max.apply(null, minutes.concat([1]));
    return minutes.map(function (count, i) {
      var height = Math.ceil(count * 46 / most);
      var x = 4 * (60 - minutes.length + i);
      return height ? "M" + x + " 48v-" + height + "h3v" + height + "z" : "";
    }).join("");
  }
  function caption(minutes) {
    if (!minutes.length) { return "Events per minute over the last hour: the first minute is not over yet."; }
    return "Events per minute over the last hour, " + grouped(Math.max.apply(null, minutes)) + " at most.";
  }
  function show(live) {
    var minutes = live.minutes;
    document.getElementById("events").textContent = grouped(live.events);
    document.getElementById("clients").textContent = grouped(live.clients);
    document.getElementById("minute").textContent = minutes.length ? grouped(minutes[minutes.length - 1]) : "–";
    document.getElementById("bars").setAttribute("d", bars(minutes));
    document.getElementById("chart").textContent = caption(minutes);
  }
  function look() {
    // Nobody looks: nobody needs to know.
    if (document.hidden) { return; }
    fetch("/live.json").then(function (answer) { return answer.json(); }).then(show, function () {});
  }
  setInterval(look, 10000);
  document.addEventListener("visibilitychange", look);
})();
