// The workflow that a fresh page opens with.
//
// The front end's own default workflow asks for models that few machines have. Where those are absent and there is
// a checkpoint, this puts plain text-to-image in its place, with that checkpoint chosen: Run makes an image at once.
// Nothing is changed where the front end's own default would work, or where a page restores a user's workflow.
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

async function modelsIn(folder) {
  const reply = await api.fetchApi(`/models/${folder}`)
  return reply.ok ? await reply.json() : []
}

/** Model files that a workflow names, with the folders they belong in. */
function modelsOf(graph) {
  return graph.nodes.flatMap((node) => node.properties?.models ?? [])
}

async function works(graph) {
  const wanted = modelsOf(graph)
  const there = await Promise.all(wanted.map(async (model) => (await modelsIn(model.directory)).includes(model.name)))
  return there.every(Boolean)
}

async function textToImage(checkpoint) {
  const reply = await fetch(new URL('text_to_image.json', import.meta.url))
  const graph = await reply.json()
  graph.nodes.find((node) => node.type === 'CheckpointLoaderSimple').widgets_values = [checkpoint]
  return graph
}

app.registerExtension({
  name: 'Tessera.FirstLight',
  async setup() {
    const original = window.comfyAPI?.defaultGraph?.defaultGraph
    const [checkpoint] = await modelsIn('checkpoints')
    if (!original || !checkpoint || (await works(original))) return
    // in place: the front end keeps its own reference to this object
    Object.assign(original, await textToImage(checkpoint))
    // without this, a first visit opens on an empty canvas and the list of templates
    await app.extensionManager.setting.set('Comfy.TutorialCompleted', true)
  }
})
