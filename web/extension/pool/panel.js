// The panel: sections that stay, with bodies that are drawn anew from each answer of GET /tessera/pool.
import { bytes, colorOf, h, partsOf, plural, seconds, stem, userName } from './dom.js'
import { timeline } from './timeline.js'

const SECTIONS = [
  ['devices', 'Devices', devices],
  ['forecasts', 'Done in about', forecasts],
  ['timeline', 'Last minute', timeline],
  ['users', 'Users', users],
  ['components', 'Resident components', components],
  ['jobs', 'Where time went', jobs],
  ['decisions', 'Latest decisions', decisions]
]
const MOST = 8 // entries of the longer lists

/** Returns: the panel's element, and `show(pool)`, where null says that the server did not answer. */
export function createPanel(clientId) {
  const state = h('span.tp-state', {}, 'asking …')
  const tiles = h('div.tp-tiles')
  const bodies = Object.fromEntries(SECTIONS.map(([id]) => [id, h(`div.tp-body.tp-${id}`)]))
  const sections = SECTIONS.map(([id, title]) =>
    h('details.tp-section', { open: '' }, h('summary', {}, title), bodies[id])
  )
  const header = h('header.tp-header', {}, h('span.tp-title', {}, 'Pool'), state)
  const element = h('div.tessera-pool', {}, header, h('div.tp-content', {}, tiles, sections))

  function show(pool) {
    element.classList.toggle('tp-silent', pool === null)
    if (pool === null) {
      state.textContent = 'no answer'
      return
    }
    const busy = pool.devices.filter((device) => device.running.length).length
    state.textContent = busy ? `${busy} of ${pool.devices.length} busy` : 'idle'
    element.classList.toggle('tp-live', busy > 0)
    tiles.replaceChildren(...summary(pool))
    for (const [id, , draw] of SECTIONS) bodies[id].replaceChildren(...draw(pool, clientId()))
  }
  return { element, show }
}

function summary(pool) {
  const reused = pool.hits + pool.merged
  const asked = reused + pool.misses
  const tables = pool.devices.map((device) => device.table)
  const sum = (name) => tables.reduce((total, table) => total + table[name], 0)
  const rows = sum('forwards') ? (sum('rows') / sum('forwards')).toFixed(1) : '–'
  return [
    tile(pool.running.length, 'running', 'Jobs that have begun'),
    tile(pool.pending_count, 'waiting', 'Jobs that have not begun'),
    tile(asked ? `${Math.round((100 * reused) / asked)} %` : '–', 'reused', `Of ${asked} ops, ${pool.hits} were known and ${pool.merged} joined another job's`),
    tile(rows, 'batch', `Rows of a forward pass, on average: ${sum('forwards')} passes, ${sum('shared')} of them for several jobs at once`)
  ]
}

const tile = (value, label, title) =>
  h('div.tp-tile', { title }, h('b', {}, String(value)), h('span', {}, label))

// -- forecasts ---------------------------------------------------------------------------------

/** When jobs will be over; the range holds four of five. */
function forecasts(pool, mine) {
  if (!pool.forecasts.length) return [h('div.tp-muted', {}, 'nothing runs about which that can be said')]
  return pool.forecasts.slice(0, MOST).map((job) =>
    h(
      'div.tp-line',
      {},
      h('span.tp-grow', {}, userName(job.client, mine)),
      h('b', {}, seconds(job.seconds)),
      h('span.tp-muted', { title: job.known ? 'Four of five jobs ended within' : 'A guess: too few jobs have ended' }, ` ${seconds(job.low)} to ${seconds(job.high)}`)
    )
  )
}

// -- devices -----------------------------------------------------------------------------------

function devices(pool, mine) {
  return pool.devices.map((device) => {
    const info = device.table.info ?? device.info
    const host = device.id === 'host'
    return h(
      'div.tp-device',
      {},
      h('div.tp-line', {}, h('b', {}, device.id), h('span.tp-muted.tp-grow', {}, about(device, info)), load(device)),
      info && !host ? memory(device, info) : null,
      device.running.map((op) => running(op, mine))
    )
  })
}

function about(device, info) {
  if (device.id === 'host') return 'loads, saves, image nodes'
  if (!device.usable) return device.restarts ? `given up or restarting (${plural(device.restarts, 'death')})` : 'starting'
  return info && info.name !== info.type ? info.name : ''
}

function load(device) {
  if (device.batch_rows) {
    const title = 'Rows of the step batch; each CFG half is a row'
    return h('span.tp-badge', { title }, plural(device.batch_rows, 'row'))
  }
  const n = device.running.length
  return n ? h('span.tp-badge', {}, plural(n, 'op')) : h('span.tp-muted', {}, 'idle')
}

function memory(device, info) {
  const used = info.total - info.free
  const held = device.table.resident.reduce((total, component) => total + component.nbytes, 0)
  const share = (n) => `${Math.min(100, (100 * n) / info.total)}%`
  const parts = device.table.resident.map((component) =>
    h('i', { title: `${component.label}, ${bytes(component.nbytes)}`, style: { width: share(component.nbytes), '--c': colorOf(component.label) } })
  )
  const rest = h('i.tp-rest', { title: `everything else, ${bytes(Math.max(0, used - held))}`, style: { width: share(Math.max(0, used - held)) } })
  const text = `${bytes(used)} of ${bytes(info.total)}`
  return h(
    'div.tp-memory',
    {},
    h('div.tp-meter', { role: 'img', 'aria-label': text }, parts, rest),
    h('div.tp-line.tp-small', {}, h('span.tp-muted.tp-grow', {}, `${bytes(held)} of weights`), h('span.tp-muted', {}, text))
  )
}

function running(op, mine) {
  const [role, file] = partsOf(op.component)
  const since = op.kind === 'host' ? op.sent : op.began // the host does not tell when it begins
  const done = op.max ? `${op.value} / ${op.max}` : since === null ? 'queued' : seconds(since)
  const width = op.max ? `${(100 * op.value) / op.max}%` : '0'
  return h(
    'div.tp-op',
    { title: [op.name, op.component, op.rows ? plural(op.rows, 'row') : '', op.apart && `shares passes only with its like: ${op.apart}`].filter(Boolean).join('\n'), style: { '--c': colorOf(op.component) } },
    h('div.tp-line', {}, h('i.tp-dot'), h('span', {}, op.name), h('span.tp-muted.tp-grow', {}, role ? file : ''), chips(op.users, mine), op.hung ? h('span.tp-bad', {}, 'no progress') : h('span.tp-num', {}, done)),
    op.max ? h('div.tp-progress', {}, h('i', { style: { width } })) : null
  )
}

/** Users' names; many are counted. */
function chips(clients, mine, most = 2) {
  const names = clients.map((client) => userName(client, mine)).sort((a, b) => (b === 'you') - (a === 'you'))
  const shown = names.length > most ? names.slice(0, most - 1) : names
  const more = names.length - shown.length
  return h(
    'span.tp-chips',
    { title: names.join(', ') },
    shown.map((name) => h(`span.tp-chip${name === 'you' ? '.tp-you' : ''}`, {}, name)),
    more ? h('span.tp-chip', {}, `+${more}`) : null
  )
}

// -- lists -------------------------------------------------------------------------------------

function components(pool, mine) {
  if (!pool.components.length) return nothing('No weights are loaded.')
  return pool.components.map((component) => {
    const [role, file] = partsOf(component.label)
    const files = component.files.map(stem).join(', ') || file
    const users = component.users.length
    const facts = [
      `on ${component.devices.join(', ')}`,
      users > 1 ? `shared by ${users}` : '',
      component.running ? `used by ${plural(component.running, 'op')}` : ''
    ]
    const use = facts.filter(Boolean).join(' · ')
    return h(
      'div.tp-component',
      { title: [...component.files, component.component].join('\n'), style: { '--c': colorOf(component.label) } },
      h('div.tp-line', {}, h('i.tp-dot'), h('span', {}, role), h('span.tp-muted.tp-grow', {}, files), h('span.tp-num', {}, bytes(component.nbytes))),
      h(
        'div.tp-line.tp-small',
        {},
        h('span.tp-muted.tp-grow', { title: use }, use),
        users ? chips(component.users, mine, 3) : null
      )
    )
  })
}

function users(pool, mine) {
  if (!pool.users.length) return nothing('Nobody has asked for anything yet.')
  const most = Math.max(...pool.users.map((user) => user.running + user.pending), 1)
  return pool.users.slice(0, MOST).map((user) => {
    const name = userName(user.client, mine)
    const waits = user.running + user.pending ? `oldest ${seconds(user.oldest)}` : `${user.done} done`
    return h(
      'div.tp-user',
      { title: `${user.client ?? 'without a client id'}\n${user.done} jobs done, ${seconds(user.compute)} of compute` },
      h(`span.tp-name${name === 'you' ? '.tp-you' : ''}`, {}, name),
      h(
        'div.tp-queue',
        {},
        h('i.tp-running', { style: { width: `${(100 * user.running) / most}%` } }),
        h('i.tp-waiting', { style: { width: `${(100 * user.pending) / most}%` } })
      ),
      h('span.tp-num', {}, user.running + user.pending ? `${user.running} + ${user.pending}` : '–'),
      h('span.tp-muted.tp-num', {}, waits)
    )
  })
}

const PARTS = ['queue', 'load', 'compute', 'transfer']

function jobs(pool, mine) {
  if (!pool.jobs.length) return nothing('No job has ended yet.')
  const rows = pool.jobs
    .slice(-MOST)
    .reverse()
    .map((job) => {
      const all = Math.max(PARTS.reduce((total, part) => total + job[part], 0), 1e-6)
      const facts = PARTS.map((part) => `${part} ${seconds(job[part])}`)
      const ops = `${plural(job.ran, 'op')} ran, ${job.cached} known, ${job.merged} joined`
      return h(
        'div.tp-job',
        { title: [job.id, ...facts, ops].join('\n') },
        h('span.tp-name', {}, userName(job.client, mine)),
        h('div.tp-split', {}, PARTS.map((part) => h(`i.tp-part-${part}`, { style: { width: `${(100 * job[part]) / all}%` } }))),
        h(`span.tp-num${job.status === 'completed' ? '' : '.tp-bad'}`, {}, job.status === 'completed' ? seconds(job.total) : job.status)
      )
    })
  const legend = h('div.tp-legend', {}, PARTS.map((part) => h('span', {}, h(`i.tp-dot.tp-part-${part}`), part)))
  return [...rows, legend]
}

function decisions(pool) {
  if (!pool.decisions.length) return nothing('Nothing has been decided yet.')
  return pool.decisions
    .slice(-MOST)
    .reverse()
    .map((made) =>
      h(
        'div.tp-decision',
        { title: `${seconds(made.ago)} ago` },
        h('div.tp-line', {}, h('span.tp-badge', {}, made.kind), h('span', {}, made.subject), h('span.tp-muted.tp-grow', {}, made.device ? `on ${made.device}` : ''), h('span.tp-muted.tp-num', {}, seconds(made.ago))),
        h('div.tp-small.tp-muted', {}, made.reason)
      )
    )
}

const nothing = (text) => [h('div.tp-muted.tp-small', {}, text)]
