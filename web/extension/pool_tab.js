// The pool tab: what the server's devices do, for whom, and what they hold. It asks only while it can be seen.
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'
import { createPanel } from './pool/panel.js'

const EVERY = 1000 // milliseconds between two looks

function addStyle() {
  const link = document.createElement('link')
  link.rel = 'stylesheet'
  link.href = new URL('pool/pool.css', import.meta.url)
  document.head.append(link)
}

/** Asks for the pool again and again while the page is visible. Returns: how to end that. */
function watch(show) {
  const ended = new AbortController()
  let timer
  async function look() {
    clearTimeout(timer)
    try {
      const reply = await api.fetchApi('/tessera/pool', { signal: ended.signal })
      show(reply.ok ? await reply.json() : null)
    } catch {
      if (ended.signal.aborted) return
      show(null)
    }
    schedule()
  }
  function schedule() {
    clearTimeout(timer)
    if (!ended.signal.aborted && !document.hidden) timer = setTimeout(look, EVERY)
  }
  document.addEventListener('visibilitychange', schedule, { signal: ended.signal })
  look()
  return () => {
    ended.abort()
    clearTimeout(timer)
  }
}

let stop // of the tab that is open, if it is

app.registerExtension({
  name: 'Tessera.Pool',
  setup() {
    addStyle()
    app.extensionManager.registerSidebarTab({
      id: 'tessera-pool',
      icon: 'pi pi-server',
      title: 'Pool',
      tooltip: 'Pool: devices, what they run and for whom',
      type: 'custom',
      render(container) {
        stop?.()
        const panel = createPanel(() => api.clientId)
        container.replaceChildren(panel.element)
        stop = watch(panel.show)
      },
      destroy() {
        stop?.()
        stop = undefined
      }
    })
  }
})
