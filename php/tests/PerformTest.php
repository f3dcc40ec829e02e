<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Client;
use Roster\Exception\InvalidRequest;
use Roster\Job;
use Roster\JobState;
use Roster\NewJob;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Patient;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Roster;

/** Jobs of a real sidecar's queues are performed by its workers. */
final class PerformTest extends TestCase
{
    /** What the error of a job begins with that was lost too often. */
    private const LOST = 'it was lost 3 times, and is tried no more: ';

    private Folder $folder;
    private string $record;
    private Roster $roster;
    private Client $client;

    protected function setUp(): void
    {
        $this->folder = new Folder();
        $this->record = "{$this->folder->path}/performed";
        touch($this->record);
        $command = json_encode([PHP_BINARY, __DIR__ . '/Support/performer.php'], JSON_UNESCAPED_SLASHES);
        $this->roster = new Roster(['/a' => 'b'], tables: "[queue]\npath = 'queue'\n"
            . "[[queue.limit]]\nqueue = 'limited'\nconcurrency = 1\n"
            . "[[queue.limit]]\nqueue = 'keyed'\nconcurrency = 1\nkey = true\n[[worker]]\nname = 'mail'\ncommand = "
            . "$command\ncount = 2\nready = 'message'\nrestart_delay = '10ms'\nstart_retries = 50\n"
            . "environment = { PERFORMED = '$this->record' }\n");
        $this->client = Patient::local($this->roster->socket, '', '');
    }

    public function testEachJobIsPerformedOnceAndIsGone(): void
    {
        $jobs = array_map(static fn (int $number) => new NewJob('mail', "job$number"), range(1, 50));
        $ids = $this->client->enqueueMany($jobs);
        $isLeft = fn (int $id): bool => $this->client->job($id) !== null;
        Process::until(static fn () => array_filter($ids, $isLeft) === [], 'all are done', 60);
        $expected = array_map(static fn (int $number) => "job$number 1", range(1, 50));
        self::assertEqualsCanonicalizing($expected, $this->performed());
    }

    public function testWhatAJobThrowsDecidesWhatBecomesOfIt(): void
    {
        $fail = $this->becomes('fail', JobState::Delayed);
        self::assertSame(1, $fail->failures);
        $script = realpath(__DIR__ . '/Support/performer.php');
        $where = 'DomainException: no route\nin ' . preg_quote($script, '~') . ':\d+\nby \{closure.*';
        self::assertMatchesRegularExpression("~^$where~s", $fail->error);
        $long = 'DomainException: a' . str_repeat('é', 249) . '…';
        self::assertMatchesRegularExpression(
            "~^$long\nin " . preg_quote($script, '~') . ':\d+\nby \{closure.*~s',
            $this->becomes('fail at length', JobState::Delayed)->error,
        );
        self::assertSame('never', $this->becomes('bury', JobState::Dead)->error);
        $id = $this->client->enqueue('mail', 'release', retries: 0);
        Process::until(fn () => $this->client->job($id) === null, 'it is done', 60);
        self::assertContains('release 3', $this->performed());
    }

    public function testAJobIsReleasedOrBuriedByItsMethods(): void
    {
        $id = $this->client->enqueue('mail', 'given back', retries: 0);
        Process::until(fn () => $this->client->job($id) === null, 'it is done', 60);
        self::assertContains('given back 3', $this->performed());
        self::assertSame('for good', $this->becomes('given up', JobState::Dead)->error);
        $this->expectException(InvalidRequest::class);
        $this->expectExceptionMessage('does not perform job');
        $this->becomes('bury', JobState::Dead)->touch();
    }

    public function testAJobThatIsTouchedTakesLongerThanItsTimeoutAndTellsHowFarItIs(): void
    {
        $id = $this->client->enqueue('mail', 'long', retries: 0, attemptTimeoutMs: 2_000);
        $isFar = fn (): bool => $this->client->job($id)?->progress?->percent > 30;
        Process::until($isFar, 'it is performed for longer than its timeout', 60);
        $job = $this->client->job($id);
        self::assertSame([JobState::Running, 1, 0], [$job->state, $job->attempt, $job->failures]);
        self::assertMatchesRegularExpression('/^step \d+ \x{FFFD}$/u', $job->progress->note);
        touch("$this->record.seen");
        Process::until(fn () => $this->client->job($id) === null, 'it is done', 60);
    }

    public function testAJobThatKillsItsWorkerIsNotHandedOnForEver(): void
    {
        $jobs = array_map(static fn (string $name) => new NewJob('mail', $name), ['die', 'one', 'two', 'three', 'four']);
        $ids = $this->client->enqueueMany($jobs);
        $die = array_shift($ids);
        Process::until(fn () => $this->client->job($die)?->state === JobState::Dead, 'it is dead', 60);
        $dead = $this->client->job($die);
        $why = preg_quote(self::LOST) . 'its worker is gone: ';
        self::assertMatchesRegularExpression("/^$why.*; it was ended by SIG[A-Z]+$/", $dead->error);
        $deaths = array_filter($this->performed(), static fn (string $line) => str_starts_with($line, 'die'));
        self::assertThat(count($deaths), self::logicalAnd(self::greaterThan(0), self::lessThan(4)));
        $isLeft = fn (int $id): bool => $this->client->job($id) !== null;
        Process::until(static fn () => array_filter($ids, $isLeft) === [], 'those handed over with it are performed', 60);
    }

    public function testAJobTellsWhatPhpDiedOf(): void
    {
        $script = preg_quote(realpath(__DIR__ . '/Support/performer.php'), '~');
        $exhausted = $this->becomes('exhaust', JobState::Dead);
        self::assertMatchesRegularExpression(
            '~^' . preg_quote(self::LOST) . "its worker died: Allowed memory size of \\d+ bytes exhausted .*\\nin $script:\\d+\$~",
            $exhausted->error,
        );
        $exited = self::LOST . 'its worker has ended: it called exit() or die()';
        self::assertSame($exited, $this->becomes('exit', JobState::Dead)->error);
        self::assertCount(3, array_keys(preg_replace('/ \\d+$/', '', $this->performed()), 'exhaust', true));
    }

    public function testAChildThatAJobForksMayEnd(): void
    {
        if (!function_exists('pcntl_fork')) {
            self::markTestSkipped('no extension pcntl');
        }
        $id = $this->client->enqueue('mail', 'fork', retries: 0);
        Process::until(fn () => $this->client->job($id) === null, 'it is done', 60);
        self::assertSame(['fork 1'], $this->performed());
    }

    public function testNoMoreJobsOfAQueueRunAtOnceThanItsLimitAllows(): void
    {
        $jobs = array_map(static fn (int $number) => new NewJob('limited', "$number"), range(1, 6));
        $keyed = array_map(static fn (int $number) => new NewJob('keyed', "$number", limitKey: 'a'), range(1, 6));
        $this->client->enqueueMany([...$jobs, ...$keyed, new NewJob('keyed', 'free', limitKey: 'b')]);
        Process::until(fn () => count($this->performed()) === 26, 'all are done', 60);
        foreach (['limited', 'keyed'] as $queue) {
            $isOf = static fn (string $line) => str_starts_with($line, "$queue ") && !str_contains($line, 'free');
            foreach (array_chunk(array_values(array_filter($this->performed(), $isOf)), 2) as [$begins, $ends]) {
                self::assertSame([1, "$begins is done"], [preg_match("/^$queue \\d$/", $begins), $ends]);
            }
        }
    }

    public function testWhatAJobReturnsIsKeptIfThatIsWanted(): void
    {
        $id = $this->client->enqueue('mail', 'returns', keepResultMs: 600_000);
        $isDone = fn (int $id): bool => $this->client->job($id)?->state === JobState::Done;
        Process::until(static fn () => $isDone($id), 'it is done', 60);
        $job = $this->client->job($id);
        self::assertSame([['sum' => 3.0, 'of' => ['/a', 'ü']], ''], [$job->result(), $job->payload]);
        $nothing = $this->client->enqueue('classes', 'EmailWork', ['to' => 'a@b.c'], keepResultMs: 600_000);
        Process::until(static fn () => $isDone($nothing), 'it is done', 60);
        self::assertSame('a@b.c', $this->client->job($nothing)->result());
        self::assertTrue($this->client->cancelJob($id));
        self::assertNull($this->client->job($id));
        $gone = $this->client->enqueue('mail', 'returns');
        Process::until(fn () => $this->client->job($gone) === null, 'it is done', 60);
    }

    public function testAJobWhoseResultCannotBeKeptIsDoneAllTheSame(): void
    {
        foreach (['returns too much', 'returns much', 'returns what throws'] as $name) {
            $id = $this->client->enqueue('mail', $name, keepResultMs: 600_000);
            Process::until(fn () => $this->client->job($id)?->state === JobState::Done, "$name: it is done", 60);
            self::assertNull($this->client->job($id)->result());
        }
        self::assertSame(['returns too much 1', 'returns much 1', 'returns what throws 1'], $this->performed());
    }

    public function testQueuesWithWeightsTakeTurns(): void
    {
        $jobs = [];
        for ($number = 0; $number < 40; $number++) {
            array_push($jobs, new NewJob('light', 'a'), new NewJob('heavy', 'a'));
        }
        $this->client->enqueueMany($jobs);
        Process::until(fn () => count($this->performed()) === 80, 'all are done', 60);
        $heavy = count(array_keys(array_slice($this->performed(), 0, 40), 'heavy', true));
        self::assertThat($heavy, self::logicalAnd(self::greaterThan(26), self::lessThan(34)));
    }

    public function testAClassOfPhpResquePerformsTheJobsOfItsName(): void
    {
        $id = $this->client->enqueue('classes', 'EmailWork', ['to' => 'a@b.c']);
        Process::until(fn () => $this->client->job($id) === null, 'it is done', 60);
        self::assertSame(['set up a@b.c classes 1', 'torn down'], $this->performed());
        $unknown = $this->becomes('NoSuchClass', JobState::Delayed, 'classes');
        self::assertStringContainsString('there is no class NoSuchClass', $unknown->error);
    }

    public function testAClassNeedsNoPropertiesAndAJobNoPayload(): void
    {
        self::assertSame(0, $this->roster->command('enqueue', 'classes', 'Undeclared')[0]);
        self::assertSame(0, $this->roster->command('enqueue', 'mail', 'job')[0]);
        Process::until(fn () => count($this->performed()) === 2, 'both are done', 60);
        self::assertEqualsCanonicalizing(['[[],"Undeclared","its own"]', 'job 1'], $this->performed());
        $this->client->enqueue('classes', 'Unchangeable', ['to' => 'a@b.c']);
        Process::until(fn () => count($this->performed()) === 3, 'it is done', 60);
        self::assertContains('[{"to":"a@b.c"},"classes"]', $this->performed());
    }

    /** A job of that name, once it is in that state. */
    private function becomes(string $name, JobState $state, string $queue = 'mail'): Job
    {
        $id = $this->client->enqueue($queue, $name);
        Process::until(function () use ($id, $state, &$job): bool {
            $job = $this->client->job($id);
            return $job?->state === $state;
        }, "$name is $state->name", 60);
        return $job;
    }

    /** @return list<string> */
    private function performed(): array
    {
        return file($this->record, FILE_IGNORE_NEW_LINES);
    }
}
