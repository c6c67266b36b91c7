// The last minute of each device: a bar per op, those that overlap below each other.
import { colorOf, h, plural, seconds, userName } from './dom.js'

const MOST_LANES = 8

/** Bars in lanes, none of which holds two at a time. bars: sorted by `began`, largest first. */
export function inLanes(bars) {
  const lanes = []
  for (const bar of bars) {
    const free = lanes.find((lane) => lane.at(-1).ended >= bar.began)
    if (free) free.push(bar)
    else lanes.push([bar])
  }
  return lanes
}

function barsOf(device, pool) {
  const running = device.running
    .filter((op) => op.began !== null)
    .map((op) => ({ ...op, ended: 0, outcome: 'running', jobs: op.jobs.length }))
  const past = pool.timeline.filter((span) => span.device === device.id)
  return [...past, ...running].sort((a, b) => b.began - a.began)
}

function drawn(bar, range, mine) {
  const right = (bar.ended / range) * 100
  const left = Math.max(0, 100 - (bar.began / range) * 100)
  const shared = bar.users.length > 1
  const facts = [
    bar.name,
    bar.component,
    bar.outcome === 'finished' ? seconds(bar.began - bar.ended) : `${bar.outcome}, ${seconds(bar.began - bar.ended)}`,
    bar.rows ? plural(bar.rows, 'row') : '',
    bar.users.length ? `for ${bar.users.map((user) => userName(user, mine)).join(', ')}` : ''
  ]
  return h(`div.tp-bar.tp-${bar.outcome}${shared ? '.tp-shared' : ''}`, {
    title: facts.filter(Boolean).join('\n'),
    style: { left: `${left}%`, right: `${right}%`, '--c': colorOf(bar.component) }
  })
}

export function timeline(pool, mine) {
  const range = pool.timeline_seconds
  const rows = pool.devices.map((device) => {
    const lanes = inLanes(barsOf(device, pool)).slice(0, MOST_LANES)
    const filled = lanes.length ? lanes : [[]]
    return h(
      'div.tp-track',
      {},
      h('span.tp-track-name', { title: device.id }, device.id),
      h('div.tp-lanes', {}, filled.map((lane) => h('div.tp-lane', {}, lane.map((bar) => drawn(bar, range, mine)))))
    )
  })
  const marks = [range, range / 2, 0].map((s) => h('span', {}, s ? `${s} s ago` : 'now'))
  return [...rows, h('div.tp-axis', {}, marks), legend()]
}

function legend() {
  const kinds = [
    ['denoising', 'denoiser'],
    ['text', 'text_encoder'],
    ['VAE', 'vae'],
    ['host', '']
  ]
  return h(
    'div.tp-legend',
    {},
    kinds.map(([name, component]) =>
      h('span', {}, h('i.tp-dot', { style: { '--c': colorOf(component) } }), name)
    )
  )
}
