// Several jobs at once in one page: each shows in the workflow tab that it was started from.
//
// The front end applies what it hears of a job to the nodes of the tab in front, by node id: enough where one job
// runs after the other. Here jobs run side by side, so what belongs to a tab behind is kept back: results are put
// where that tab finds them when it comes to the front, progress and previews wait for that moment.
import { app } from '../../scripts/app.js'
import { api } from '../../scripts/api.js'

const workflowOf = new Map() // job -> the workflow tab that it was started from
const progressOf = new Map() // running job -> its last progress_state
let speaking = null // job of the last event that named one: `executing` and legacy previews name none
let hushed = false // the last preview was of a tab behind

const tabs = () => app.extensionManager.workflow

function isBehind(job) {
  const workflow = workflowOf.get(job)
  return Boolean(workflow) && workflow.path !== tabs().activeWorkflow?.path
}

/** Nodes' results, where the front end looks for them when the tab comes to the front. */
function keepFor(workflow, { display_node, node, output }) {
  const tracker = workflow?.changeTracker
  if (tracker && output) tracker.nodeOutputs = { ...tracker.nodeOutputs, [display_node ?? node]: output }
}

/** Show the running job of the tab in front, which another job's beginning or end has taken off the stage. */
function showOwn(dispatch) {
  for (const [job, state] of progressOf) {
    if (!workflowOf.has(job) || isBehind(job)) continue
    dispatch('execution_start', { prompt_id: job, timestamp: Date.now() })
    dispatch('progress_state', state)
    return
  }
}

/** Whether an event is for the tab in front. */
function passes(type, detail) {
  switch (type) {
    case 'progress_state':
      progressOf.set(detail.prompt_id, detail)
      return !isBehind(detail.prompt_id)
    case 'executed':
      if (!isBehind(detail.prompt_id)) return true
      keepFor(workflowOf.get(detail.prompt_id), detail)
      return false
    case 'b_preview_with_metadata':
      hushed = isBehind(detail.jobId)
      return !hushed
    case 'b_preview':
      return !hushed
    case 'progress':
      return !isBehind(detail.prompt_id)
    case 'executing':
      return !isBehind(speaking)
    default:
      return true
  }
}

const ENDS = ['execution_success', 'execution_error', 'execution_interrupted']

app.registerExtension({
  name: 'Tessera.JobTabs',
  setup() {
    const queue = api.queuePrompt.bind(api)
    const dispatch = api.dispatchCustomEvent.bind(api)
    api.queuePrompt = async (...given) => {
      const workflow = tabs().activeWorkflow
      const answer = await queue(...given)
      if (answer?.prompt_id) workflowOf.set(answer.prompt_id, workflow)
      return answer
    }
    api.dispatchCustomEvent = (type, detail) => {
      if (detail?.prompt_id) speaking = detail.prompt_id
      const heard = passes(type, detail) ? dispatch(type, detail) : true
      if (ENDS.includes(type)) progressOf.delete(detail.prompt_id)
      const others = ENDS.includes(type) || (type === 'execution_start' && isBehind(detail.prompt_id))
      if (others || (type === 'executing' && detail === null)) showOwn(dispatch)
      return heard
    }
    this.show = () => showOwn(dispatch)
  },
  afterConfigureGraph() {
    this.show?.() // a tab came to the front
  },
})
