// Refreshes the page from the JSON of the status, and adds filter and sorting. Rows are changed in
// place, so that scroll position, filter, selection and focus stay. No text ever becomes markup:
// all of them are set as text of nodes.
"use strict";
(() => {
  const PROTOCOLS = ["imap", "pop3", "lmtp", "smtp", "sieve", "http"];
  const SIGNS = { alive: "✔", dead: "✖", unknown: "?" };
  const INVISIBLE = /[\0-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
  const of = (id) => document.getElementById(id);
  const shown = (text) => (text ?? "").replace(INVISIBLE, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);

  const age = (seconds) => {
    const s = Math.max(0, Math.floor(seconds)), m = Math.floor(s / 60), h = Math.floor(s / 3600), d = Math.floor(s / 86400);
    return d ? `${d} d ${h % 24} h` : h ? `${h} h ${m % 60} min` : m ? `${m} min` : `${s} s`;
  };
  const utc = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
  // What the last full TLS handshake showed: see handshake in rows.rs.
  const certificateOf = ({ subject, issuer, expiry, names }) => {
    const until = expiry === undefined ? "" : ` until ${utc(Math.min(Math.max(expiry, 0), 253402300799))}`;
    return `${subject} issued by ${issuer}${until}${names.length ? ` for ${names.join(", ")}` : ""}`;
  };
  const handshake = (tls) => tls
    ? [[tls.protocol, tls.cipher, tls.group].filter(Boolean).join(" "), ...tls.chain.map(certificateOf)].join("; ")
    : "";
  const latency = (s) => {
    const ms = s * 1000;
    return ms < 1 ? `${ms.toFixed(2)} ms` : ms < 10 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${ms.toFixed(0)} ms` : `${s.toFixed(2)} s`;
  };

  const element = (name, text, className) => {
    const made = document.createElement(name);
    made.textContent = text;
    if (className) made.className = className;
    return made;
  };
  // Replaces what a node has, unless that was made of the same data already.
  const fill = (node, data, children) => {
    const made = JSON.stringify(data);
    if (node.madeOf === made) return;
    node.madeOf = made;
    node.replaceChildren(...children());
  };
  const put = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };

  // The graph: see graph.rs.
  const graph = (latencies, results) => {
    const drawn = (path, className) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", "path");
      if (className) made.setAttribute("class", className);
      made.setAttribute("d", path);
      return made;
    };
    const slowest = Math.max(1e-6, ...latencies.filter((_, x) => results[x] === "g"));
    let line = "", marks = "", last = null, run = 0;
    for (let x = 0; x <= results.length; x++) {
      if (results[x] === "f") run++;
      else if (run) marks += `M${x - run} 17h${run}`, run = 0;
      if (results[x] === "g") {
        const y = 1 + Math.round(14 - 14 * latencies[x] / slowest);
        line += last === null ? `M${x} ${y}h0` : last === y ? "h1" : `l1 ${y - last}`;
        last = y;
      } else last = null;
    }
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 60 18");
    svg.setAttribute("aria-hidden", "true");
    if (line) svg.append(drawn(line));
    if (marks) svg.append(drawn(marks, "f"));
    return svg;
  };

  const row = (cells) => {
    const made = document.createElement("tr");
    for (let at = 0; at < cells; at++) made.append(document.createElement(at ? "td" : "th"));
    made.cells[0].scope = "row";
    return made;
  };

  const update = (tr, t, now) => {
    const [key, node, verdict, since, reason, times, certificate] = tr.cells;
    tr.target = t;
    if (tr.className !== t.verdict) tr.className = t.verdict;
    const address = t.ip === t.host ? "" : t.ip;
    fill(key, [t.key, address], () => address ? [`${shown(t.key)} `, element("small", shown(address))] : [shown(t.key)]);
    put(node, shown(t.node));
    fill(verdict, [t.verdict, t.state], () => {
      const word = element("b", `${SIGNS[t.verdict]} ${t.verdict}`);
      return t.state === "auto" ? [word] : [word, " ", element("i", t.state)];
    });
    put(since, t.since ? age(now - t.since) : "");
    put(reason, shown(t.last_error));
    const failed = t.results.split("f").length - 1;
    fill(times, [t.last_latency, t.latencies, t.results], () => [
      ...(t.results ? [graph(t.latencies, t.results)] : []),
      ...(t.last_latency === undefined ? [] : [latency(t.last_latency)]),
      ...(failed ? [" ", element("small", `${failed} of ${t.results.length} failed`)] : []),
    ]);
    const left = t.certificate_expiry - now;
    put(certificate, isNaN(left) ? "" : left <= 0 ? "⚠ expired" : `${t.certificate_expires_soon ? "⚠ " : ""}${Math.floor(left / 86400)} d`);
    certificate.className = t.certificate_expires_soon ? "w" : "";
    const details = shown(handshake(t.tls));
    if (certificate.title !== details) certificate.title = details;
  };

  // Sorting: the column and the direction, of all tables of targets at once.
  const BY = [(t) => t.key, (t) => t.node, (t) => t.verdict, (t) => t.since ?? 0, (t) => t.last_error ?? "", (t) => t.last_latency ?? -1, (t) => t.certificate_expiry ?? 0];
  let sorting = null;
  const ordered = (targets) => {
    if (!sorting) return targets;
    const by = BY[sorting.column];
    const compare = (a, b) => (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0);
    return [...targets].sort((a, b) => sorting.direction * compare(by(a), by(b)));
  };

  // Shows the rows with the text of the filter.
  const filter = () => {
    const wanted = of("filter").value.trim().toLowerCase();
    let count = 0, all = 0;
    for (const body of of("targets").tBodies) {
      let seen = 0;
      for (const tr of [...body.rows].slice(1)) {
        const text = [...tr.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        const hidden = !`${body.dataset.protocol} ${text}`.includes(wanted);
        if (tr.hidden !== hidden) tr.hidden = hidden;
        seen += hidden ? 0 : 1;
        all++;
      }
      if (body.hidden !== !seen) body.hidden = !seen;
      count += seen;
    }
    put(of("count"), wanted ? `${count} of ${all} shown` : "");
  };

  const targets = (status) => {
    const table = of("targets");
    const bodies = new Map([...table.tBodies].map((body) => [body.dataset.protocol, body]));
    for (const protocol of PROTOCOLS) {
      const mine = status.targets.filter((t) => t.protocol === protocol);
      let body = bodies.get(protocol);
      if (!mine.length) {
        body?.remove();
        continue;
      }
      if (!body) {
        body = document.createElement("tbody");
        body.dataset.protocol = protocol;
        const head = document.createElement("tr"), cell = element("th", "");
        head.className = "g", cell.colSpan = 7, cell.scope = "rowgroup";
        head.append(cell), body.append(head);
        const after = [...table.tBodies].find((one) => PROTOCOLS.indexOf(one.dataset.protocol) > PROTOCOLS.indexOf(protocol));
        table.insertBefore(body, after ?? null);
      }
      put(body.rows[0].cells[0], `${protocol}: ${mine.filter((t) => t.verdict === "alive").length} of ${mine.length} alive`);
      // Rows by target; several where one is listed twice.
      const known = new Map();
      for (const tr of [...body.rows].slice(1)) {
        tr.key ??= tr.cells[0].firstChild.textContent.trim();
        known.set(tr.key, [...(known.get(tr.key) ?? []), tr]);
      }
      let place = body.rows[0];
      for (const t of ordered(mine)) {
        const key = shown(t.key);
        const tr = known.get(key)?.shift() ?? row(7);
        tr.key = key;
        update(tr, t, status.time);
        if (place.nextSibling !== tr) place.after(tr);
        place = tr;
      }
      for (const tr of [...known.values()].flat()) tr.remove();
    }
    filter();
  };

  const lines = (table, data, cells, className) => {
    fill(table.tBodies[0], data, () => data.map((one) => {
      const contents = cells(one), tr = row(contents.length);
      contents.forEach((content, at) => tr.cells[at].append(...[content].flat()));
      if (className) tr.className = className(one);
      return tr;
    }));
  };

  const prober = ({ prober: pid, prober_elsewhere: elsewhere }) => {
    if (elsewhere) return `${pid ? `Process ${pid} of another program` : "Another program"} probes; the state file has its verdicts.`;
    return pid ? `Process ${pid} probes.` : "No process probes.";
  };

  const show = (status) => {
    const count = (verdict) => status.targets.filter((t) => t.verdict === verdict).length;
    put(of("summary"), status.configured ? `${status.targets.length} targets: ${count("alive")} alive, ${count("dead")} dead, ${count("unknown")} unknown.` : "");
    put(of("meta"), status.configured ? `${prober(status)} Configuration in force for ${age(status.time - status.configured_since)}.` : "");
    put(of("asof"), `As of ${utc(status.time)}.`);
    of("asof").className = "";
    const panics = status.panic.map((protocol) => `${protocol}: so few targets are alive that all are listed (panic)`);
    const warnings = [...(status.error ? [status.error] : []), ...panics, ...status.warnings];
    fill(of("warnings"), warnings, () => warnings.map((text) => element("li", `⚠ ${shown(text)}`)));
    of("nodes").parentNode.hidden = !status.routing;
    targets(status);
    of("nodes").className = status.cluster ? "s" : "";
    // The age is part of the compared data, so that the rows are made again when it changes.
    lines(of("nodes"), status.routing ? status.nodes.map((n) => ({ ...n, age: n.since && age(status.time - n.since) })) : [], (n) => {
      const usable = element("b", n.usable ? "✔ yes" : `✖ no: ${n.why}`);
      const set = n.state === "auto" ? [] : [element("i", n.state), ` ${n.age}`];
      const counts = [n.users, n.moved_in, n.moved_out].map((count) => String(count ?? ""));
      return [shown(n.node), shown(n.pool), String(n.weight), usable, set, ...counts];
    }, (n) => n.usable ? "alive" : n.why === "dead" ? "dead" : "out");
    lines(of("events"), [...(status.events ?? [])].reverse(), (e) => {
      const change = [e.from && shown(e.from), (e.from || e.to) && "→", e.to && shown(e.to)].filter(Boolean).join(" ");
      const about = e.target ?? (e.node === undefined ? "" : `node:${e.node}`);
      return [utc(e.time), e.type, shown(about), change, shown(e.reason), shown(e.by)];
    });
  };

  let last = null;
  const refresh = async () => {
    const began = performance.now();
    try {
      if (!document.hidden) {
        const response = await fetch(document.body.dataset.json, { cache: "no-store", credentials: "same-origin" });
        if (!response.ok) throw new Error(`status ${response.status}`);
        last = await response.json();
        show(last);
      }
    } catch (error) {
      put(of("asof"), `⚠ Not refreshed${last ? ` since ${utc(last.time)}` : ""}: ${error.message}`);
      of("asof").className = "w";
    }
    // A page that takes long to refresh is refreshed less often: at most a twentieth of the time is spent
    // on it, so that a long list never takes much of the server's time.
    setTimeout(refresh, Math.max(1000, 20 * (performance.now() - began)));
  };

  of("tools").hidden = false;
  of("filter").addEventListener("input", filter);
  const heads = [...of("targets").tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = element("button", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      // Up, down, and the configured order again.
      const turns = sorting?.column === column;
      sorting = !turns ? { column, direction: 1 } : sorting.direction === 1 ? { column, direction: -1 } : null;
      for (const other of heads) other.removeAttribute("aria-sort");
      if (sorting) head.setAttribute("aria-sort", sorting.direction === 1 ? "ascending" : "descending");
      if (last) targets(last);
    });
  });
  refresh();
})();
