// Elements and words. Everything shown is set as text, never parsed as markup.

/** h('div.name.other', {title: '...'}, child, [children], 'text') */
export function h(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split('.')
  const element = document.createElement(tag)
  element.className = classes.join(' ')
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'style') for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v)
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value)
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false))
  return element
}

export function bytes(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let unit = 0
  while (n >= 1000 && unit < units.length - 1) {
    n /= 1000
    unit += 1
  }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${units[unit]}`
}

export function seconds(s) {
  if (s < 1) return `${Math.round(s * 1000)} ms`
  if (s < 60) return `${s.toFixed(1)} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
}

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`

/** A client's name to read: pages have long random ids. mine: the id of this page. */
export function userName(client, mine) {
  if (client === null) return 'no name'
  if (client === mine) return 'you'
  return /^[0-9a-f-]{20,}$/i.test(client) ? client.slice(0, 6) : client
}

const COLORS = [
  [/^denoiser/, 'MODEL'],
  [/^text_encoder/, 'CLIP'],
  [/^vae/, 'VAE'],
  [/^controlnet/, 'CONTROL_NET'],
  [/^lora/, 'LATENT'],
  [/^upscale/, 'IMAGE']
]

/** The front end's color of what a component makes; of a host call, which has none, a neutral one. */
export function colorOf(component) {
  const type = COLORS.find(([pattern]) => pattern.test(component))?.[1]
  return type ? `var(--color-datatype-${type}, var(--primary))` : 'var(--muted-foreground)'
}

/** 'text_encoder of demo.safetensors' -> ['text encoder', 'demo'] */
export function partsOf(label) {
  const at = label.indexOf(' of ')
  if (at < 0) return [label, '']
  return [label.slice(0, at).replaceAll('_', ' '), label.slice(at + 4).split(', ').map(stem).join(', ')]
}

/** A model file's name without its ending. */
export const stem = (name) => name.replace(/\.(safetensors|ckpt|pth?)$/, '')
